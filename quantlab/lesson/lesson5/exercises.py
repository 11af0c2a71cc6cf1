"""The exercises of lesson 5; each is defined in a module of its own."""

from quantlab.lesson.lesson5.blocks import exercise as blocks
from quantlab.lesson.lesson5.cost import exercise as cost
from quantlab.lesson.lesson5.idle import exercise as idle
from quantlab.lesson.lesson5.in_flight import exercise as in_flight
from quantlab.lesson.lesson5.own_guesses import exercise as own_guesses
from quantlab.lesson.lesson5.own_traffic import exercise as own_traffic
from quantlab.lesson.lesson5.per_step import exercise as per_step

__all__ = ["blocks", "cost", "idle", "in_flight", "own_guesses", "own_traffic", "per_step"]
