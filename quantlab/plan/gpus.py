"""GPUs as data: memory, bandwidth, compute capability, and prices that carry their date.

Three numbers are called "the memory" of one card:

    advertised_gb   on the box. "24 GB" is 24 GiB of chips (25.8 x 10^9 bytes); "80 GB" of an H100 is a little less
    driver_mib      nvidia-smi, in MiB. On GDDR6 server cards (T4, A10, L4, L40S) error correction has taken 1/16
    memory_bytes    what a program can take, as PyTorch's out-of-memory message ("total capacity of 21.98 GiB") and
                    vLLM's log ("total_gpu_memory") print it: less what the driver keeps. Plans use this one.

Drivers differ by about 1% in the last. Sources: driver_mib from modal-labs/modal-client pull request 2797 (2025-01)
and NVIDIA's nvidia-smi tables in public bug reports; memory_bytes from public PyTorch and vLLM messages, 2024-2026;
bandwidth and compute capability from NVIDIA's data sheets and CUDA GPU list. Prices are inputs: change them.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantlab.errors import unknown

GIB = 2**30


@dataclass(frozen=True)
class Price:
    """So many US dollars, asked by whom, and when it was read."""

    usd: float
    source: str
    date: str


@dataclass(frozen=True)
class Gpu:
    """One card. `memory_bytes` is what a program can use; `bandwidth` is in bytes a second."""

    name: str
    label: str
    advertised_gb: int
    driver_mib: int
    memory_bytes: int
    bandwidth: float
    compute_capability: tuple[int, int]
    consumer: bool = False
    price_per_hour: Price | None = None
    list_price: Price | None = None

    @property
    def memory_gib(self) -> float:
        """Usable memory in GiB (2^30 bytes)."""
        return self.memory_bytes / GIB

    @property
    def memory_gb(self) -> float:
        """Usable memory in GB (10^9 bytes)."""
        return self.memory_bytes / 1e9


def _card(
    name: str, label: str, advertised_gb: int, driver_mib: int, usable_gib: float, gb_per_s: float, capability: str,
    *, hour: Price | None = None, launch: Price | None = None,
) -> Gpu:  # fmt: skip
    major, minor = capability.split(".")
    return Gpu(
        name, label, advertised_gb, driver_mib, round(usable_gib * GIB), gb_per_s * 1e9, (int(major), int(minor)),
        consumer=launch is not None, price_per_hour=hour, list_price=launch,
    )  # fmt: skip


def _aws(usd: float, instance: str) -> Price:
    return Price(usd, f"AWS {instance} on demand in us-east-1, for each GPU", "2024-06")


def _lambda(usd: float) -> Price:
    return Price(usd, "Lambda on demand", "2024-06")


def _launch(usd: float, date: str) -> Price:
    return Price(usd, "NVIDIA's list price at launch", date)


_ALL = (
    #      name        label           box  nvidia-smi usable  GB/s  capability
    _card("t4",       "T4",             16,  15360,  14.56,   320, "7.5", hour=_aws(0.526, "g4dn.xlarge")),
    _card("a10",      "A10",            24,  23028,  21.98,   600, "8.6", hour=_lambda(0.75)),
    _card("a10g",     "A10G",           24,  23028,  21.98,   600, "8.6", hour=_aws(1.006, "g5.xlarge")),
    _card("l4",       "L4",             24,  23034,  22.03,   300, "8.9", hour=_aws(0.805, "g6.xlarge")),
    _card("rtx-3090", "RTX 3090",       24,  24576,  23.56,   936, "8.6", launch=_launch(1499, "2020-09")),
    _card("rtx-4090", "RTX 4090",       24,  24564,  23.52,  1008, "8.9", launch=_launch(1599, "2022-10")),
    _card("rtx-5090", "RTX 5090",       32,  32607,  31.37,  1792, "12.0", launch=_launch(1999, "2025-01")),
    _card("a100-40",  "A100 40 GB",     40,  40960,  39.49,  1555, "8.0", hour=_aws(4.10, "p4d.24xlarge")),
    _card("l40s",     "L40S",           48,  46068,  44.39,   864, "8.9", hour=_aws(1.861, "g6e.xlarge")),
    _card("a100-80",  "A100 80 GB",     80,  81920,  79.25,  2039, "8.0", hour=_aws(5.12, "p4de.24xlarge")),
    _card("h100",     "H100 SXM 80 GB", 80,  81559,  79.11,  3350, "9.0", hour=_aws(12.29, "p5.48xlarge")),
    _card("h200",     "H200 SXM",      141, 143771, 139.80,  4800, "9.0"),
    _card("b200",     "B200 SXM",      180, 183359, 178.35,  8000, "10.0"),
)  # fmt: skip
GPUS = {card.name: card for card in _ALL}


def gpu(name: str) -> Gpu:
    """The GPU of this name, however it is spelled; an unknown one raises with the nearest.

    >>> gpu("RTX 4090").compute_capability
    (8, 9)
    """
    key = "-".join(name.lower().replace("nvidia", "").replace("geforce", "").replace("_", " ").split()).strip("-")
    for spelling in (key, key.removesuffix("gb").rstrip("-"), f"rtx-{key.removeprefix('rtx').lstrip('-')}"):
        if spelling in GPUS:
            return GPUS[spelling]
    raise unknown("GPU", key, GPUS)


@dataclass(frozen=True)
class Instance:
    """A rented machine: which GPU, how many, and its price an hour."""

    name: str
    gpu: str
    count: int
    price_per_hour: Price


_READ = "AWS list price on demand, us-east-1, Linux"
INSTANCES = {
    machine.name: machine
    for machine in (
        Instance("p4d.24xlarge", "a100-40", 8, Price(32.77, _READ, "2024-06")),
        Instance("p4de.24xlarge", "a100-80", 8, Price(40.97, _READ, "2024-06")),
    )
}


def instance(name: str) -> Instance:
    """The rented machine of this name; an unknown one raises with the nearest."""
    if name.strip().lower() not in INSTANCES:
        raise unknown("instance", name, INSTANCES)
    return INSTANCES[name.strip().lower()]
