"""Which numbers, and which bytes: one file a format, two questions kept apart (Grid and Packing)."""
