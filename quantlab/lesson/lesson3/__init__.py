"""Lesson 3, GPTQ, GGUF and AWQ: its exercises and predictions, and the contests that it measures."""

from quantlab.lesson.lesson3 import exercises, predictions

__all__ = ["exercises", "predictions"]
