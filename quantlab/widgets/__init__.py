"""Explorers: a pure model and a view; without a live kernel, a static picture and words."""
