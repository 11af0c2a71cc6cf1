"""The exercises of lesson 1, each in a module of its own; the broken calculators are quantlab.lesson.drills."""

from quantlab.lesson.drills.guessed_head import exercise as guessed_head
from quantlab.lesson.drills.mislabelled import exercise as mislabelled
from quantlab.lesson.drills.query_heads import exercise as query_heads
from quantlab.lesson.drills.sixteen_heads import exercise as sixteen_heads
from quantlab.lesson.drills.sliding_window import exercise as sliding_window
from quantlab.lesson.lesson1.bits_per_weight import exercise as bits_per_weight
from quantlab.lesson.lesson1.kv_cache import exercise as kv_cache
from quantlab.lesson.lesson1.largest_context import exercise as largest_context

__all__ = [
    "bits_per_weight",
    "guessed_head",
    "kv_cache",
    "largest_context",
    "mislabelled",
    "query_heads",
    "sixteen_heads",
    "sliding_window",
]
