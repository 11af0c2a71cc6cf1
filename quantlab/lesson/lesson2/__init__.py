"""Lesson 2, rounding to levels: its exercises and predictions, and the model they are measured on."""

from quantlab.lesson.lesson2 import exercises, predictions

__all__ = ["exercises", "predictions"]
