"""Drills: five published calculators to mend, and three published numbers that are wrong.

Each is an `Exercise` whose wrong answers begin with what was published. The bugs are real, and the question says where
each stood: an issue, a pull request, a page. None is a matter of taste; the planner, or the table's own other column,
shows the right number.

    from quantlab.lesson.drills import DRILLS

    DRILLS["query_heads"]            # shows the broken calculator and the question
    DRILLS["query_heads"].check(kv_bytes)

A lesson's `exercises` module imports the ones that its notebook has a cell for.
"""

from quantlab.lesson.drills.group_scales import exercise as group_scales
from quantlab.lesson.drills.guessed_head import exercise as guessed_head
from quantlab.lesson.drills.mislabelled import exercise as mislabelled
from quantlab.lesson.drills.query_heads import exercise as query_heads
from quantlab.lesson.drills.repeated_cell import exercise as repeated_cell
from quantlab.lesson.drills.sixteen_heads import exercise as sixteen_heads
from quantlab.lesson.drills.sliding_window import exercise as sliding_window
from quantlab.lesson.drills.sparse_rate import exercise as sparse_rate

BROKEN_CALCULATORS = {
    "query_heads": query_heads,
    "guessed_head": guessed_head,
    "sliding_window": sliding_window,
    "sixteen_heads": sixteen_heads,
    "sparse_rate": sparse_rate,
}
WRONG_NUMBERS = {"group_scales": group_scales, "mislabelled": mislabelled, "repeated_cell": repeated_cell}
DRILLS = {**BROKEN_CALCULATORS, **WRONG_NUMBERS}

__all__ = ["BROKEN_CALCULATORS", "DRILLS", "WRONG_NUMBERS"]
