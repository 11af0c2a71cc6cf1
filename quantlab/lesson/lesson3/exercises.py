"""The exercises of lesson 3; each is defined in a module of its own."""

from quantlab.lesson.lesson3.awq_rounding import exercise as awq_rounding
from quantlab.lesson.lesson3.best_scale import exercise as best_scale
from quantlab.lesson.lesson3.gptq_step import exercise as gptq_step
from quantlab.lesson.lesson3.nvfp4_block import exercise as nvfp4_block
from quantlab.lesson.lesson3.own_layer import exercise as own_layer
from quantlab.lesson.lesson3.own_text import exercise as own_text
from quantlab.lesson.lesson3.six_bits import exercise as six_bits

__all__ = ["awq_rounding", "best_scale", "gptq_step", "nvfp4_block", "own_layer", "own_text", "six_bits"]
