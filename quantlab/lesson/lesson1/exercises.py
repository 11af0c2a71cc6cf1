"""The exercises of lesson 1; each is defined in a module of its own."""

from quantlab.lesson.lesson1.bits_per_weight import exercise as bits_per_weight
from quantlab.lesson.lesson1.kv_cache import exercise as kv_cache
from quantlab.lesson.lesson1.largest_context import exercise as largest_context

__all__ = ["bits_per_weight", "kv_cache", "largest_context"]
