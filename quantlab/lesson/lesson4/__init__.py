"""Lesson 4, speed against quality: its exercises and predictions, and what is measured for them."""

from quantlab.lesson.lesson4 import exercises, predictions

__all__ = ["exercises", "predictions"]
