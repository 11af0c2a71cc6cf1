"""Data in, `Picture` out: each function draws one picture and writes the words that say the same.

Never `plt.show`: the last line of a notebook cell shows a picture, `picture.savefig(path)` writes it.
"""

from quantlab.plots.bars import Bar, bars, bars_words
from quantlab.plots.levels import Rounded, levels_picture, levels_words
from quantlab.plots.memory import Need, memory_bars, memory_words
from quantlab.plots.number_lines import Snapped, number_lines, number_lines_words, snapped_picture, snapped_words
from quantlab.plots.quality import quality_vs_bits, quality_words
from quantlab.plots.salience import Columns, salience_picture, salience_words
from quantlab.plots.theme import Picture

__all__ = [
    "Bar",
    "Columns",
    "Need",
    "Picture",
    "Rounded",
    "Snapped",
    "bars",
    "bars_words",
    "levels_picture",
    "levels_words",
    "memory_bars",
    "memory_words",
    "number_lines",
    "number_lines_words",
    "quality_vs_bits",
    "quality_words",
    "salience_picture",
    "salience_words",
    "snapped_picture",
    "snapped_words",
]
