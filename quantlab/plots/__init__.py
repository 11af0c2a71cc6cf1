"""Data in, `Picture` out: each function draws one picture and writes the words that say the same.

Never `plt.show`: the last line of a notebook cell shows a picture, `picture.savefig(path)` writes it.
"""

from quantlab.plots.memory import Need, memory_bars, memory_words
from quantlab.plots.quality import quality_vs_bits, quality_words
from quantlab.plots.theme import Picture

__all__ = ["Need", "Picture", "memory_bars", "memory_words", "quality_vs_bits", "quality_words"]
