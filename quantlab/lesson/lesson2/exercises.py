"""The exercises of lesson 2; each is defined in a module of its own."""

from quantlab.lesson.lesson2.asymmetric import exercise as asymmetric
from quantlab.lesson.lesson2.e4m3 import exercise as e4m3
from quantlab.lesson.lesson2.groups import exercise as groups
from quantlab.lesson.lesson2.nf4_codes import exercise as nf4_codes
from quantlab.lesson.lesson2.own_matrix import exercise as own_matrix
from quantlab.lesson.lesson2.own_prompt import exercise as own_prompt
from quantlab.lesson.lesson2.q4_0_block import exercise as q4_0_block

__all__ = ["asymmetric", "e4m3", "groups", "nf4_codes", "own_matrix", "own_prompt", "q4_0_block"]
