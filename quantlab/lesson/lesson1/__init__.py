"""Lesson 1, the memory problem: its exercises and predictions."""

from quantlab.lesson.lesson1 import exercises, predictions

__all__ = ["exercises", "predictions"]
