"""A row of a Markdown table, for the pages that tools write."""


def row(*cells: object) -> str:
    """The cells between bars, a bar inside a cell escaped."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def rule(columns: int) -> str:
    """The line under a table's head."""
    return "|---" * columns + "|"
