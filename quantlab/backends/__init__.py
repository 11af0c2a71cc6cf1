"""The production libraries behind one interface."""
