"""Pictures: what is drawn, what is said, and the files they become."""

from __future__ import annotations

import colorsys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from quantlab.errors import UsageError
from quantlab.plots import Need, memory_bars, quality_at_bits, quality_vs_bits, theme

NEED = Need("a\nbf16", {"weights": 131.4, "KV cache": 20, "overhead": 1.5})
SMALL = Need("a\nint4", {"weights": 37, "KV cache": 20, "overhead": 1.5})
GPUS = {"T4": 14.6, "A100 80 GB": 79.25, "B200": 178.4}


def row(fmt: str, bits: float, kl: float, perplexity: float, backend: str = "quantlab") -> dict[str, Any]:
    return {
        "name": fmt, "bits_per_weight": bits, "kl_mean": kl, "kl_stderr": kl / 20, "perplexity": perplexity,
        "backend": backend,
    }  # fmt: skip


ROWS = [
    row("bf16", 16, 0, 6.2), row("int8", 8.02, 4e-4, 6.2), row("int4_g128", 4.125, 0.09, 6.8),
    row("int2_g128", 2.125, 4.3, 310), row("nf4", 4.5, 0.055, 6.6, "bitsandbytes"),
    row("q4_k_m", 4.9, 0.04, 6.4, "llama.cpp"), row("q2_k", 3.4, 0.6, 9.4, "llama.cpp"),
]  # fmt: skip


def test_one_need_is_told_gpu_by_gpu() -> None:
    picture = memory_bars([SMALL], GPUS, ghost=NEED, title="A title")
    texts = [t.get_text() for t in picture.axes[0].texts]
    assert "✗ 15 GiB: short by 43.9 GiB" in texts
    assert "✓ 79 GiB: fits, 20.8 GiB left" in texts
    assert "58.5 GiB" in texts
    assert picture.words == (
        "a int4 needs 58.5 GiB: 37 GiB weights, 20 GiB KV cache, 1.5 GiB overhead. It fits A100 80 GB, B200. "
        "Before: 152.9 GiB (a bf16)."
    )
    assert picture.texts[0].get_text() == "A title"
    assert picture.axes[0].get_xlabel() == "memory in GiB"


def test_several_needs_name_what_fits() -> None:
    picture = memory_bars([NEED, SMALL], GPUS)
    texts = [t.get_text() for t in picture.axes[0].texts]
    assert "✗ 15 GiB: fits none" in texts
    assert "✓ 79 GiB: fits int4" in texts
    assert any(t.startswith("✓ 178 GiB: fits bf16, int4") for t in texts)
    assert "It fits B200." in picture.words


@pytest.mark.parametrize("gib", [1e-3, 0.4, 14.6, 200, 16885, 10**6])
def test_the_bar_and_its_number_stay_inside(gib: float) -> None:
    picture = memory_bars([Need("x", {"weights": gib})], GPUS)
    axes = picture.axes[0]
    assert axes.get_xlim()[1] >= 1.15 * gib
    renderer = FigureCanvasAgg(picture).get_renderer()
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert box.x1 <= picture.bbox.x1, text.get_text()


@pytest.mark.parametrize("needs", [[], [Need("x", {"wheights": 1.0})]])
def test_needs_it_cannot_draw(needs: list[Need]) -> None:
    with pytest.raises(UsageError, match="weights, KV cache, overhead"):
        memory_bars(needs, GPUS)


def test_without_gpus_only_the_bars() -> None:
    picture = memory_bars([NEED], {})
    assert "fits" not in picture.words


def test_quality_draws_and_tells_every_row() -> None:
    picture = quality_vs_bits(ROWS)
    left, right = picture.axes
    names = [t.get_text() for t in left.texts]
    assert sorted(names) == sorted(r["name"] for r in ROWS if r["name"] != "bf16")
    assert left.get_yscale() == right.get_yscale() == "log"
    for r in ROWS[1:]:
        assert r["name"] in picture.words
    assert "int2_g128 at 2.13 bits: KL 4.3 ± 0.2, perplexity 310" in picture.words.replace("2.12 bits", "2.13 bits")
    assert [t.get_text() for t in right.texts] == ["bf16: 6.2; 4 within 10% of it", "int2_g128", "q2_k"]
    assert left.get_xlabel() == right.get_xlabel() == "bits per weight, scales included"


def test_labels_do_not_cover_each_other() -> None:
    picture = quality_vs_bits(ROWS)
    renderer = FigureCanvasAgg(picture).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in picture.axes[0].texts]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_perfect_copies_have_a_place_on_a_log_axis() -> None:
    picture = quality_vs_bits([ROWS[0], row("q8_0", 8.5, 0.0, 6.2, "llama.cpp"), ROWS[2]])
    assert picture.axes[0].get_ylim()[0] > 0
    assert picture.png().startswith(b"\x89PNG")


def test_a_backend_that_nobody_knew_has_a_look_of_its_own() -> None:
    rows = [*ROWS, row("x", 5, 0.1, 7, "new one"), row("y", 6, 0.1, 7, "another")]
    labels = [t.get_text() for t in quality_vs_bits(rows).legends[0].get_texts()]
    assert labels == ["quantlab", "bitsandbytes", "llama.cpp", "new one", "another"]


def test_rows_without_a_finite_figure_are_named_and_not_drawn() -> None:
    rows = [*ROWS, row("int1", 1.1, 9, float("inf")), {**row("q8_0", 8.5, 1e-4, 6.2), "kl_mean": None}]
    picture = quality_vs_bits(rows)
    assert picture.words.endswith("Not drawn, for want of a finite figure: int1, q8_0.")
    assert "int1" not in [t.get_text() for t in picture.axes[0].texts]


@pytest.mark.parametrize("rows", [ROWS[1:], ROWS[:1], []])
def test_quality_needs_a_baseline_and_another(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="bf16"):
        quality_vs_bits(rows)


AT_FOUR = [
    ROWS[0],
    *(
        {**row(name, 4.15, kl, 7, backend), "tied": tied}
        for name, kl, backend, tied in (
            ("rtn:int4_g128_asym", 0.11, "quantlab", False), ("awq:int4_g128_asym", 0.08, "quantlab", False),
            ("gptq:int4_g128_asym", 0.071, "quantlab", False), ("awq_gptq:int4_g128_asym", 0.05, "quantlab", True),
            ("llm-compressor:gptq:int4_g128_asym", 0.07, "llm-compressor", False),
            ("gptqmodel:gptq:int4_g128_asym", 0.072, "gptqmodel", False),
            ("autoawq:awq:int4_g128_asym", 0.081, "autoawq", False), ("nf4", 0.079, "bitsandbytes", False),
            ("q4_0", 0.09, "llama.cpp", False), ("llama.cpp:imatrix:q4_0", 0.07, "llama.cpp", False),
            ("q4_k_m", 0.051, "llama.cpp", True), ("llama.cpp:imatrix:q4_k_m", 0.049, "llama.cpp", True),
        )
    ),
]  # fmt: skip


def test_many_rows_at_equal_bits_are_ranked_and_their_names_can_be_read() -> None:
    picture = quality_at_bits(AT_FOUR)
    left, right = picture.axes
    labels = left.get_yticklabels()
    ranked = sorted(AT_FOUR[1:], key=lambda r: r["kl_mean"])
    assert [t.get_text() for t in labels] == [r["name"] for r in ranked]
    assert [t.get_weight() == "bold" for t in labels] == [r["tied"] for r in ranked]
    renderer = FigureCanvasAgg(picture).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in labels]
    assert all(not one.overlaps(other) for one, other in combinations(boxes, 2))
    assert min(box.x0 for box in boxes) >= 0
    assert max(t.get_window_extent(renderer).x1 for t in right.texts) <= right.get_window_extent().x1
    assert picture.legends[0].get_window_extent(renderer).y0 >= max(
        axes.title.get_window_extent(renderer).y1 for axes in picture.axes
    )
    assert "llama.cpp:imatrix:q4_k_m 0.049 ± 0.002, 4.15 bits; awq_gptq" in picture.words
    assert "Not to be told apart from llama.cpp:imatrix:q4_k_m: awq_gptq:int4_g128_asym, q4_k_m." in picture.words


def test_a_ranking_of_one_and_of_rows_without_figures() -> None:
    picture = quality_at_bits([ROWS[0], ROWS[1], {**AT_FOUR[1], "kl_mean": None}])
    assert "Not drawn, for want of a finite figure: rtn:int4_g128_asym." in picture.words
    with pytest.raises(UsageError, match="bf16"):
        quality_at_bits(AT_FOUR[1:])


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    for kind in ("png", "svg"):
        one, two = (getattr(quality_vs_bits(ROWS), kind)() for _ in range(2))
        assert one == two
        assert len(one) < 150_000
    quality_vs_bits(ROWS).savefig(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_no_picture_touches_pyplot() -> None:
    import subprocess
    import sys

    code = "import sys, quantlab.plots, quantlab.widgets; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_on_its_ground() -> None:
    """WCAG AA: 4.5 for text."""
    from quantlab.plots.memory import PARTS

    grounds = [("#FFFFFF" if text == "white" else text, colour) for colour, text in PARTS.values()]
    grounds += [(theme.INK, theme.PAPER), (theme.SOFT, theme.PAPER), (theme.INK, theme.PALE_SKY)]
    for text, ground in grounds:
        assert contrast(text, ground) >= 4.5, (text, ground)


def test_stacked_parts_differ_without_colour() -> None:
    """Neighbours differ in lightness, so that a grey print and every kind of colour blindness tell them apart."""
    from quantlab.plots.memory import PARTS

    lightness = [colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[1] for c, _ in PARTS.values()]
    assert all(abs(a - b) > 0.05 for a, b in pairwise(lightness)), lightness
