"""The cards: dense rates and traps, names as drivers spell them, Macs, and this machine as it is found."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan import cards, detect
from quantlab.plan.gpus import DTYPES, GIB, GPUS, MACS, gpu

# what nvidia-smi answers on machines that people posted: name, MiB, capability -> entry
SMI = {
    "NVIDIA A100-SXM4-80GB, 81920, 8.0": "a100-80",
    "NVIDIA A100 80GB PCIe, 81920, 8.0": "a100-80-pcie",
    "NVIDIA A100-SXM4-40GB, 40960, 8.0": "a100-40",
    "NVIDIA A100-PCIE-40GB, 40960, 8.0": "a100-40",
    "NVIDIA H100 80GB HBM3, 81559, 9.0": "h100",
    "NVIDIA H100 PCIe, 81559, 9.0": "h100-pcie",
    "NVIDIA H100 NVL, 95830, 9.0": "h100-nvl",
    "NVIDIA H200, 143771, 9.0": "h200",
    "NVIDIA B200, 183359, 10.0": "b200",
    "Tesla V100-SXM2-16GB, 16160, 7.0": "v100-16",
    "Tesla V100-SXM2-32GB, 32510, 7.0": "v100-32",
    "Tesla T4, 15360, 7.5": "t4",
    "NVIDIA A10, 23028, 8.6": "a10",
    "NVIDIA A10G, 23028, 8.6": "a10g",
    "NVIDIA L4, 23034, 8.9": "l4",
    "NVIDIA L40S, 46068, 8.9": "l40s",
    "NVIDIA GeForce RTX 3090, 24576, 8.6": "rtx-3090",
    "NVIDIA GeForce RTX 4090, 24564, 8.9": "rtx-4090",
    "NVIDIA GeForce RTX 5090, 32607, 12.0": "rtx-5090",
}


def test_every_card_has_its_rates_sources_and_date() -> None:
    for card in (*GPUS.values(), *MACS.values()):
        assert card.rates
        assert all(dtype in DTYPES and rate > 0 for dtype, rate in card.rates)
        assert len(card.source) > 8
        assert len(card.date) == 7
        assert card.rate_16 > 0
        assert card.bandwidth > 0
        assert all(hasattr(card, field) for field in card.unverified)


def test_every_price_belongs_to_a_card_and_has_a_source_and_a_date() -> None:
    assert set(cards.PRICES) | set(cards.LAUNCH) | set(cards.UNVERIFIED) <= set(GPUS)
    assert set(cards.ALIASES.values()) <= set(GPUS)
    for card in GPUS.values():
        assert card.price_per_hour is None or (card.price_per_hour.usd > 0 and len(card.price_per_hour.date) == 7)


def test_eight_bits_are_twice_sixteen_and_four_twice_eight_where_the_card_has_them() -> None:
    """A sparse rate among dense ones would show here: each step down doubles the rate."""
    for card in GPUS.values():
        for dtype, factor in (("int8", 2), ("fp8", 2), ("fp4", 4)):
            rate = card.rate(dtype)
            geforce_integers = card.consumer and dtype in (
                "int8",
                "fp4",
            )  # not halved by 32-bit sums as bf16 and fp8 are
            if rate is not None:
                assert rate / card.rate_16 == pytest.approx(2 * factor if geforce_integers else factor, rel=0.02), card


def test_which_generation_multiplies_what() -> None:
    for card in GPUS.values():
        if card.maker == "NVIDIA":
            major_minor = card.compute_capability
            assert (card.rate("bf16") is not None) == (major_minor >= (8, 0)), card.name
            assert (card.rate("int8") is not None) == (major_minor >= (7, 5)), card.name
            assert (card.rate("fp8") is not None) == (major_minor >= (8, 9)), card.name
            assert (card.rate("fp4") is not None) == (major_minor >= (10, 0)), card.name


def test_an_h100_is_not_sparse_and_an_a10g_is_not_an_a10() -> None:
    assert gpu("h100").rate("bf16") == 989e12
    assert gpu("a10g").rate_16 < gpu("a10").rate_16
    assert gpu("a10g").bandwidth == gpu("a10").bandwidth
    assert gpu("h200").rates == gpu("h100").rates
    assert gpu("a100-80-pcie").bandwidth < gpu("a100-80").bandwidth


def pytorchs_cards() -> dict[str, dict[str, Any]]:
    """torch's own table of cards, read from its source: importing torch would take seconds."""
    torch = importlib.util.find_spec("torch")
    assert torch
    assert torch.origin
    tree = ast.parse((Path(torch.origin).parent / "_inductor" / "analysis" / "device_info.py").read_text())
    table = next(
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    )
    found = {}
    for key, call in zip(table.keys, table.values, strict=True):
        fields = {field.arg: field.value for field in call.keywords}
        tops = fields.pop("tops")
        entry = {name: ast.literal_eval(value) for name, value in fields.items()}
        entry.update({ast.unparse(k): ast.literal_eval(v) for k, v in zip(tops.keys, tops.values, strict=True)})
        found[ast.literal_eval(key)] = entry
    return found


def test_pytorchs_table_agrees_where_it_is_right() -> None:
    table = pytorchs_cards()
    for theirs, ours in (("NVIDIA A100", "a100-80"), ("NVIDIA H100", "h100"), ("AMD MI300X", "mi300x")):
        info, card = table[theirs], gpu(ours)
        assert info["dram_bw_gbs"] * 1e9 == card.bandwidth
        for dtype, name in (("torch.bfloat16", "bf16"), ("torch.int8", "int8")):
            dense = info[dtype] / info.get("tops_sparsity_factor", 1)
            assert dense * 1e12 == pytest.approx(card.rate(name), rel=2e-3)


def test_pytorchs_l4_is_still_wrong_as_the_drill_says() -> None:
    """If this fails, PyTorch has mended its table: say so in quantlab/lesson/drills/sparse_rate.py."""
    info = pytorchs_cards()["NVIDIA L4"]
    assert (info["torch.bfloat16"], info["dram_bw_gbs"], info.get("tops_sparsity_factor", 1)) == (242, 3350, 1)
    assert info["torch.bfloat16"] * 1e12 == 2 * gpu("l4").rate_16


def test_unknown_data_types_and_cards_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data type 'fp18'; did you mean 'fp8'"):
        gpu("h100").rate("fp18")
    with pytest.raises(UsageError, match="did you mean 'mi300x'"):
        gpu("mi300z")
    with pytest.raises(UsageError, match="has 8 to 128 GB of memory, not 4096"):
        gpu("m4-max-4096")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A100", "a100-80"), ("NVIDIA A100 PCIe", "a100-80-pcie"), ("H100 SXM", "h100"), ("Tesla V100", "v100-16"),
        ("AMD Instinct MI300X", "mi300x"), ("Apple M2 Ultra", "m2-ultra"), ("m4 max 64gb", "m4-max-64"),
        ("GeForce RTX 5090", "rtx-5090"),
    ],
)  # fmt: skip
def test_other_spellings(spelling: str, name: str) -> None:
    assert gpu(spelling).name == name


def test_a_mac_gives_the_gpu_two_thirds_or_three_quarters() -> None:
    # llama.cpp's log: recommendedMaxWorkingSetSize of Macs with 16, 32, 64 and 96 GB
    for name, mib in (("m1-16", 10922.67), ("m1-max-32", 21845.34), ("m1-max-64", 49152.0), ("m2-max-96", 73728.0)):
        assert gpu(name).memory_bytes / 2**20 == pytest.approx(mib, abs=0.01)
    assert "rates" in gpu("m1").unverified


@pytest.mark.parametrize("line", SMI)
def test_the_driver_names_a_card_and_we_know_it(line: str) -> None:
    (found,) = detect.parse_smi(line)
    assert found is GPUS[SMI[line]]


def test_cards_that_are_not_in_the_table_keep_what_the_driver_says() -> None:
    laptop, slice_of_one, other = detect.parse_smi(
        "NVIDIA GeForce RTX 4090 Laptop GPU, 16376, 8.9\n"
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb, 9856, 8.0\n"
        "NVIDIA RTX A6000, 49140, 8.6"
    )
    assert (laptop.bandwidth, laptop.driver_mib, laptop.compute_capability) == (0.0, 16376, (8, 9))
    assert slice_of_one.memory_bytes < 10 * GIB
    assert other.label == "NVIDIA RTX A6000"
    with pytest.raises(UsageError, match="rate of NVIDIA RTX A6000 is not known"):
        _ = other.rate_16


def test_lines_that_are_no_cards_are_passed_over() -> None:
    assert detect.parse_smi("WARNING: infoROM is corrupted at gpu 0000:00:04.0\n\nNVIDIA GB10, [N/A], 12.1\n") == []


def fake_smi(folder: Path, script: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_the_largest_of_the_machines_gpus_is_planned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "echo 'NVIDIA L4, 23034, 8.9'; echo 'NVIDIA L40S, 46068, 8.9'")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert detect.this_machine().name == gpu("auto").name == "l40s"
    fake_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert detect.nvidia_gpus() == []


def test_a_driver_that_hangs_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "exec sleep 30")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert detect.nvidia_gpus(timeout_s=0.2) == []


def test_this_cpu() -> None:
    import psutil

    cpu = gpu("cpu")
    assert (cpu.maker, cpu.bandwidth) == ("CPU", 0.0)
    assert 0 < cpu.memory_bytes <= psutil.virtual_memory().total
    assert f"({detect.cores()} core" in cpu.label


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    for text, expected in (("1073741824", GIB), ("max", detect.memory_limit([])), (str(2**63 - 4096), None)):
        limit.write_text(text)
        assert detect.memory_limit([str(limit), str(tmp_path / "absent")]) == (expected or detect.memory_limit([]))


def test_bandwidth_is_measured() -> None:
    measured = detect.measured_cpu(mib=8, repeats=2)
    assert 1e8 < measured.bandwidth < 1e13  # a sane machine; the value itself is this machine's business
    assert "measured" in measured.source


def test_more_bytes_take_longer_to_copy() -> None:
    """The measurement is a rate: 8 times the bytes at about the same rate, not an overhead divided by a size."""
    small, large = detect.copy_bandwidth(8, 3, threads=1), detect.copy_bandwidth(64, 3, threads=1)
    assert 1 / 8 < large / small < 8


@pytest.mark.parametrize("arguments", [{"mib": 0}, {"mib": 1.5}, {"mib": 10**6}, {"repeats": 0}, {"repeats": True}])
def test_absurd_measurements_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be a whole number from 1 to 4096"):
        detect.copy_bandwidth(**arguments)


def test_macs_by_their_brand_string() -> None:
    assert detect.this_mac("Apple M3 Max", 36 * GIB).name == "m3-max-36"
    with pytest.raises(QuantlabError, match="'Apple M77' is not in the table of Macs; plan for one of m1, "):
        detect.this_mac("Apple M77", 36 * GIB)


def test_the_query_is_one_that_drivers_understand() -> None:
    """Fields of nvidia-smi --help-query-gpu; the doctor asks the same."""
    from quantlab.doctor import gpu as doctor

    asked = detect.QUERY[1].removeprefix("--query-gpu=").split(",")
    assert set(asked) <= set(doctor._FIELDS.split(","))
    assert subprocess.list2cmdline(detect.QUERY).startswith("nvidia-smi ")
