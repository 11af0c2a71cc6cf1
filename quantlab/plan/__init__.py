"""How much memory, how fast, how dear: arithmetic on a model's config and a GPU's data sheet. Standard library only."""
