"""Tables say the same in HTML and in plain text."""

from quantlab.lesson.tables import Table, claims_table


def test_plain_text_and_html_hold_the_same_cells():
    table = Table(("part", "GB"), [("weights & scales", 1234.5), ("fits", True)], "A <caption>")
    assert repr(table).splitlines() == [
        "A <caption>",
        "part              GB",
        "weights & scales  1,234",
        "fits              True",
    ]
    html = table._repr_html_()
    assert "weights &amp; scales" in html
    assert "A &lt;caption&gt;" in html
    assert '<th scope="col"' in html


def test_claims_are_computed():
    assert [row[2] for row in claims_table(["M2", "M11"]).rows] == ["holds", "does not hold"]
