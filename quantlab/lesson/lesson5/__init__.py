"""Lesson 5, serving at scale: its exercises and predictions, and what is measured for them."""

from quantlab.lesson.lesson5 import exercises, predictions

__all__ = ["exercises", "predictions"]
