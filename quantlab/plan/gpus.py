"""GPUs as data: memory, bandwidth, dense rates, compute capability, and prices that carry their date.

Three numbers are called "the memory" of one card:

    advertised_gb   on the box. "24 GB" is 24 GiB of chips (25.8 x 10^9 bytes); "80 GB" of an H100 is a little less
    driver_mib      nvidia-smi, in MiB. On GDDR6 server cards (T4, A10, L4, L40S) error correction has taken 1/16
    memory_bytes    what a program can take, as PyTorch's out-of-memory message ("total capacity of 21.98 GiB") and
                    vLLM's log ("total_gpu_memory") print it: less what the driver keeps. Plans use this one.

Drivers differ by about 1% in the last. Sources: driver_mib from modal-labs/modal-client pull request 2797 (2025-01)
and NVIDIA's nvidia-smi tables in public bug reports; memory_bytes from public PyTorch and vLLM messages, 2024-2026;
bandwidth, rates and compute capability from data sheets (`Gpu.source`, quantlab.plan.cards), a Mac's share from
llama.cpp's log. What was found in one place only is in `Gpu.unverified`. Prices are inputs: change them.

    gpu("rtx-4090")      a card             gpu("m4-max-64")   a Mac with so much memory
    gpu("cpu")           this machine's processor and memory; gpu("auto"): its GPU, where it has one (plan.detect)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantlab.errors import UsageError, unknown
from quantlab.plan import cards

GIB = 2**30
DTYPES = ("fp16", "bf16", "int8", "fp8", "fp4")  # whose dense rates a card may have


@dataclass(frozen=True)
class Price:
    """So many US dollars, asked by whom, and when it was read."""

    usd: float
    source: str
    date: str


@dataclass(frozen=True)
class Gpu:
    """One card, or a machine with shared memory.

    `memory_bytes` is what a program can use; `bandwidth` is in bytes a second (0: not known). `rates` pairs a data type
    with dense operations a second: what has no pair is not multiplied natively. Only NVIDIA's cards have a compute
    capability; others say (0, 0), and `maker` tells.
    """

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
    maker: str = "NVIDIA"
    rates: tuple[tuple[str, float], ...] = ()
    source: str = ""
    date: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def memory_gib(self) -> float:
        """Usable memory in GiB (2^30 bytes)."""
        return self.memory_bytes / GIB

    @property
    def memory_gb(self) -> float:
        """Usable memory in GB (10^9 bytes)."""
        return self.memory_bytes / 1e9

    def rate(self, dtype: str) -> float | None:
        """Dense operations a second in this data type; None where it does not multiply it. Unknown types raise.

        >>> gpu("a10").rate("fp8") is None, gpu("l4").rate("fp8") / 1e12
        (True, 242.0)
        """
        if dtype not in DTYPES:
            raise unknown("data type", dtype, DTYPES)
        return dict(self.rates).get(dtype)

    @property
    def rate_16(self) -> float:
        """Dense operations a second in 16 bits, summed in 32: what weight-only formats are computed in.

        >>> gpu("t4").rate_16 / 1e12  # fp16; Turing has no bf16
        65.0
        """
        rate = self.rate("bf16") or self.rate("fp16")
        if rate is None:
            raise UsageError(f"the rate of {self.label} is not known; give it with dataclasses.replace(gpu, rates=...)")
        return rate


def _rates(text: str) -> tuple[tuple[str, float], ...]:
    words = text.split()
    pairs = {dtype: float(tera) * 1e12 for dtype, tera in zip(words[::2], words[1::2], strict=True)}
    if "bf16" in pairs:
        pairs = {"fp16": pairs["bf16"], **pairs}
    return tuple(pairs.items())


def _card(row: tuple[str, str, int, int, float, float, str, str, str], maker: str) -> Gpu:
    name, label, box, driver_mib, usable_gib, gb_per_s, capability, rates, document = row
    major, minor = capability.split(".")
    launch = cards.LAUNCH.get(name)
    return Gpu(
        name, label, box, driver_mib, round(usable_gib * GIB), gb_per_s * 1e9, (int(major), int(minor)),
        consumer=launch is not None,
        price_per_hour=Price(*cards.PRICES[name]) if name in cards.PRICES else None,
        list_price=Price(launch[0], "NVIDIA's list price at launch", launch[1]) if launch else None,
        maker=maker, rates=_rates(rates), source=cards.SOURCES[document], date=cards.WHEN,
        unverified=cards.UNVERIFIED.get(name, ()),
    )  # fmt: skip


def _mac(name: str, label: str, gb: int, gb_per_s: float, gpu_cores: int, ghz: float) -> Gpu:
    rate = cards.APPLE_OPERATIONS * gpu_cores * ghz * 1e9
    share = next(share for most, share in cards.APPLE_SHARES if gb <= most)
    return Gpu(
        name, f"{label} {gb} GB", gb, gb * 1024, round(gb * GIB * share), gb_per_s * 1e9, (0, 0),
        maker="Apple", rates=(("fp16", rate),), source=cards.SOURCES["apple"], date=cards.WHEN, unverified=("rates",),
    )  # fmt: skip


_CARDS = [*(_card(row, "NVIDIA") for row in cards.NVIDIA), *(_card(row, "AMD") for row in cards.AMD)]
GPUS = {card.name: card for card in _CARDS}  # cards with memory of their own
MACS = {row[0]: _mac(*row) for row in cards.APPLE}  # memory shared with the processor, the largest sold
_MAKERS = ("nvidia", "geforce", "tesla", "amd", "instinct", "apple")


def gpu(name: str) -> Gpu:
    """The GPU of this name, however it is spelled; an unknown one raises with the nearest.

    >>> gpu("RTX 4090").compute_capability
    (8, 9)
    >>> round(gpu("M4 Max 64GB").memory_gib)  # three quarters of it may be the GPU's
    48
    """
    words = name.lower().replace("_", " ").replace("-", " ").split()
    key = "-".join(word for word in words if word not in _MAKERS)
    if key in ("cpu", "auto", "here", "this-machine"):
        from quantlab.plan import detect  # it asks the machine: only when it is asked for

        return detect.this_cpu() if key == "cpu" else detect.this_machine()
    for spelling in (key, key.removesuffix("gb").rstrip("-"), f"rtx-{key.removeprefix('rtx').lstrip('-')}"):
        found = cards.ALIASES.get(spelling, spelling)
        if found in GPUS or found in MACS:
            return GPUS.get(found) or MACS[found]
        if mac := _sized_mac(found):
            return mac
    raise unknown("GPU", key, {**GPUS, **MACS})


def _sized_mac(key: str) -> Gpu | None:
    """`m4-max-64`: the chip with 64 GB."""
    chip, _, size = key.rpartition("-")
    row = next((row for row in cards.APPLE if row[0] == chip), None)
    if row is None or not size.isdigit():
        return None
    if not 8 <= int(size) <= row[2]:
        raise UsageError(f"{row[1]} has 8 to {row[2]} GB of memory, not {size}; give a size within that")
    return replace(_mac(row[0], row[1], int(size), *row[3:]), name=key)


@dataclass(frozen=True)
class Instance:
    """A rented machine: which GPU, how many, and its price an hour."""

    name: str
    gpu: str
    count: int
    price_per_hour: Price


# What a claim of 2024 is held against; AWS lowered both in 2025-06 (cards.PRICES has today's).
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
