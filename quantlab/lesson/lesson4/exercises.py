"""The exercises of lesson 4; each is defined in a module of its own."""

from quantlab.lesson.drills.repeated_cell import exercise as repeated_cell
from quantlab.lesson.drills.sparse_rate import exercise as sparse_rate
from quantlab.lesson.lesson4.divergence import exercise as divergence
from quantlab.lesson.lesson4.own_prompts import exercise as own_prompts
from quantlab.lesson.lesson4.own_text import exercise as own_text
from quantlab.lesson.lesson4.paired import exercise as paired
from quantlab.lesson.lesson4.perplexity import exercise as perplexity
from quantlab.lesson.lesson4.step_time import exercise as step_time

__all__ = [
    "divergence",
    "own_prompts",
    "own_text",
    "paired",
    "perplexity",
    "repeated_cell",
    "sparse_rate",
    "step_time",
]
