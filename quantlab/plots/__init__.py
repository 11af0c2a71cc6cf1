"""Data in, `Picture` out: each function draws one picture and writes the words that say the same.

Never `plt.show`: the last line of a notebook cell shows a picture, `picture.savefig(path)` writes it.
"""

from quantlab.plots.bars import Bar, bars, bars_words
from quantlab.plots.inputs import inputs_picture, inputs_words
from quantlab.plots.levels import Rounded, levels_picture, levels_words
from quantlab.plots.memory import Need, memory_bars, memory_words
from quantlab.plots.number_lines import Snapped, number_lines, number_lines_words, snapped_picture, snapped_words
from quantlab.plots.quality import quality_at_bits, quality_vs_bits, quality_words, ranking_words
from quantlab.plots.salience import Columns, salience_picture, salience_words
from quantlab.plots.scaling import Scaled, scaling_picture, scaling_words
from quantlab.plots.super_block import SuperBlock, super_block_picture, super_block_words
from quantlab.plots.support import support_picture, support_words
from quantlab.plots.sweep import Swept, sweep_picture, sweep_words
from quantlab.plots.theme import Picture

__all__ = [
    "Bar",
    "Columns",
    "Need",
    "Picture",
    "Rounded",
    "Scaled",
    "Snapped",
    "SuperBlock",
    "Swept",
    "bars",
    "bars_words",
    "inputs_picture",
    "inputs_words",
    "levels_picture",
    "levels_words",
    "memory_bars",
    "memory_words",
    "number_lines",
    "number_lines_words",
    "quality_at_bits",
    "quality_vs_bits",
    "quality_words",
    "ranking_words",
    "salience_picture",
    "salience_words",
    "scaling_picture",
    "scaling_words",
    "snapped_picture",
    "snapped_words",
    "super_block_picture",
    "super_block_words",
    "support_picture",
    "support_words",
    "sweep_picture",
    "sweep_words",
]
