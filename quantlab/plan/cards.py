"""The table of cards: what NVIDIA's, AMD's and Apple's data sheets say, as rows. quantlab.plan.gpus makes `Gpu`s of it.

Rates are **dense**: multiplications and additions of a matrix product, counted as two operations, in 10^12 a second,
16-bit products summed in 32 bits. Three traps, each of which doubles a figure:

    sparse        data sheets since Ampere print the rate for matrices with half of their weights zero ("with
                  sparsity"); a language model's are dense, at half that rate
    FP16 sums     GeForce cards multiply twice as fast when they sum in 16 bits; language models sum in 32. The Ada
                  whitepaper printed 660.6 for FP8 with 32-bit sums on an RTX 4090 until version 2.02 mended it: 330.3
    the name      the A10G of AWS is not an A10: 70 instead of 125

The figures were read in public copies and quotations of the documents named, not on the makers' own pages; what was
found in no second place is listed as unverified. Standard library only.
"""

from __future__ import annotations

WHEN = "2026-11"  # when the data sheets' copies were read

# document -> how it is cited
SOURCES = {
    "t4": "NVIDIA T4 data sheet 951643",
    "v100": "NVIDIA V100 data sheet 1165301-r5; V100 has no 8-bit matrix units",
    "ga102": "NVIDIA Ampere GA102 whitepaper 2.1, appendix A",
    "a10": "NVIDIA A10 data sheet",
    "a10g": "NVIDIA A10G data sheet for AWS, 2022-02",
    "a100": "NVIDIA A100 data sheet 1758950-r4",
    "ada": "NVIDIA Ada whitepaper 2.1, appendix A",
    "l4": "NVIDIA L4 data sheet (485 and 242 there are sparse)",
    "l40s": "NVIDIA L40S data sheet (1,466 and 733 there are sparse)",
    "rtx-blackwell": "NVIDIA RTX Blackwell whitepaper, table of RTX 5090, 4090 and 3090",
    "h100": "NVIDIA H100 data sheet, halved (it prints sparse rates)",
    "h200": "NVIDIA H200 data sheet, halved (it prints sparse rates)",
    "b200": "NVIDIA HGX B200 page, halved (it prints sparse rates)",
    "mi300x": "AMD Instinct MI300X data sheet, as in torch 2.13, torch/_inductor/analysis/device_info.py",
    "apple": "Apple's pages for the chip; rate: 256 operations a core and clock, clocks from hmc-tech.com",
}  # fmt: skip

# name, label, GB on the box, nvidia-smi's MiB, GiB a program gets, GB/s, capability, rates, document
NVIDIA = (
    ("t4",          "T4",             16,  15360,  14.56,   320, "7.5", "fp16 65 int8 130", "t4"),
    ("v100-16",     "V100 16 GB",     16,  16160,  15.78,   900, "7.0", "fp16 125", "v100"),
    ("a10",         "A10",            24,  23028,  21.98,   600, "8.6", "bf16 125 int8 250", "a10"),
    ("a10g",        "A10G",           24,  23028,  21.98,   600, "8.6", "bf16 70 int8 140", "a10g"),
    ("l4",          "L4",             24,  23034,  22.03,   300, "8.9", "bf16 121 int8 242 fp8 242", "l4"),
    ("rtx-3090",    "RTX 3090",       24,  24576,  23.56,   936, "8.6", "bf16 71 int8 284", "ga102"),
    ("rtx-4090",    "RTX 4090",       24,  24564,  23.52,  1008, "8.9", "bf16 165.2 int8 660.6 fp8 330.3", "ada"),
    ("rtx-5090",    "RTX 5090",       32,  32607,  31.37,  1792, "12.0",
     "bf16 209.5 int8 838 fp8 419 fp4 1676", "rtx-blackwell"),
    ("v100-32",     "V100 32 GB",     32,  32510,  31.74,   900, "7.0", "fp16 125", "v100"),
    ("a100-40",     "A100 40 GB",     40,  40960,  39.49,  1555, "8.0", "bf16 312 int8 624", "a100"),
    ("l40s",        "L40S",           48,  46068,  44.39,   864, "8.9", "bf16 362 int8 733 fp8 733", "l40s"),
    ("a100-80-pcie", "A100 PCIe 80 GB", 80, 81920, 79.25,  1935, "8.0", "bf16 312 int8 624", "a100"),
    ("a100-80",     "A100 80 GB",     80,  81920,  79.25,  2039, "8.0", "bf16 312 int8 624", "a100"),
    ("h100-pcie",   "H100 PCIe 80 GB", 80, 81559,  79.11,  2000, "9.0", "bf16 756 int8 1513 fp8 1513", "h100"),
    ("h100",        "H100 SXM 80 GB", 80,  81559,  79.11,  3350, "9.0", "bf16 989 int8 1979 fp8 1979", "h100"),
    ("h100-nvl",    "H100 NVL 94 GB", 94,  95830,  93.00,  3900, "9.0", "bf16 835.5 int8 1670.5 fp8 1670.5", "h100"),
    ("h200",        "H200 SXM",      141, 143771, 139.80,  4800, "9.0", "bf16 989 int8 1979 fp8 1979", "h200"),
    ("b200",        "B200 SXM",      180, 183359, 178.35,  8000, "10.0",
     "bf16 2250 int8 4500 fp8 4500 fp4 9000", "b200"),
)  # fmt: skip
AMD = (
    ("mi300x",      "MI300X",        192, 196592, 191.98,  5300, "0.0", "bf16 1307.4 int8 2614.9 fp8 2614.9", "mi300x"),
)  # fmt: skip

# What a program can take was not seen for these boards, only for the other one of the same chip and size.
UNVERIFIED = {"a100-80-pcie": ("memory_bytes",), "h100-pcie": ("memory_bytes",), "b200": ("memory_bytes",)}

# name, label, largest memory in GB, GB/s, GPU cores, GHz. Cores and bandwidth of the largest chip of that name; smaller
# ones of the same name have less (an M4 Max with 32 GPU cores: 410 GB/s).
APPLE = (
    ("m1",       "Apple M1",        16,  68.3,  8, 1.278),
    ("m1-pro",   "Apple M1 Pro",    32, 200,   16, 1.296),
    ("m1-max",   "Apple M1 Max",    64, 400,   32, 1.296),
    ("m1-ultra", "Apple M1 Ultra", 128, 800,   64, 1.296),
    ("m2",       "Apple M2",        24, 100,   10, 1.398),
    ("m2-pro",   "Apple M2 Pro",    32, 200,   19, 1.398),
    ("m2-max",   "Apple M2 Max",    96, 400,   38, 1.398),
    ("m2-ultra", "Apple M2 Ultra", 192, 800,   76, 1.398),
    ("m3",       "Apple M3",        24, 100,   10, 1.398),
    ("m3-pro",   "Apple M3 Pro",    36, 150,   18, 1.398),
    ("m3-max",   "Apple M3 Max",   128, 400,   40, 1.398),
    ("m3-ultra", "Apple M3 Ultra", 512, 819,   80, 1.398),
    ("m4",       "Apple M4",        32, 120,   10, 1.470),
    ("m4-pro",   "Apple M4 Pro",    64, 273,   20, 1.578),
    ("m4-max",   "Apple M4 Max",   128, 546,   40, 1.678),
)  # fmt: skip
APPLE_OPERATIONS = 256  # a core has 128 units, each with one multiplication and one addition a clock

# The share of a Mac's memory that the GPU may take (Metal's recommendedMaxWorkingSetSize), as llama.cpp's log printed
# it: 10,922.67 MiB of 16 GiB and 21,845.34 of 32 (abetlen/llama-cpp-python 687, ollama 434); 49,152 of 64 and 73,728 of
# 96 (ggml-org/llama.cpp 1870 and 3213). Newer versions of macOS give 0.70 to 0.78 (llama.cpp pull request 16634).
APPLE_SHARES = ((36, 2 / 3), (10**6, 3 / 4))  # up to so many GB: this share

# name -> dollars an hour for one GPU, and where that was read
_AWS = "AWS {} on demand in us-east-1, for each GPU; AWS price list of 2026-09-24"
PRICES = {
    "t4": (0.526, _AWS.format("g4dn.xlarge"), "2026-09"),
    "v100-16": (3.06, _AWS.format("p3.2xlarge"), "2026-09"),
    "a10": (0.86, "Lambda on demand, in techbytes.app's comparison", "2026-05"),
    "a10g": (1.006, _AWS.format("g5.xlarge"), "2026-09"),
    "l4": (0.805, _AWS.format("g6.xlarge"), "2026-09"),
    "rtx-3090": (0.18, "OpenRelay's price page, in github.com/api-evangelist/openrelay", "2026-09"),
    "rtx-4090": (0.29, "OpenRelay's price page, in github.com/api-evangelist/openrelay", "2026-09"),
    "rtx-5090": (0.69, "RunPod, in deploybase.ai's price guide", "2026-03"),
    "a100-40": (2.745, _AWS.format("p4d.24xlarge"), "2026-09"),
    "l40s": (1.861, _AWS.format("g6e.xlarge"), "2026-09"),
    "a100-80-pcie": (1.79, "RunPod secure cloud, in github.com/datareceipts/data-receipts", "2026-11"),
    "a100-80": (3.431, _AWS.format("p4de.24xlarge"), "2026-09"),
    "h100-pcie": (2.89, "RunPod secure cloud, in github.com/datareceipts/data-receipts", "2026-11"),
    "h100": (6.88, _AWS.format("p5.48xlarge"), "2026-09"),
    "h100-nvl": (3.19, "RunPod secure cloud, in github.com/datareceipts/data-receipts", "2026-11"),
    "h200": (7.912, _AWS.format("p5en.48xlarge"), "2026-09"),
    "b200": (6.79, "RunPod secure cloud, in github.com/api-evangelist/runpod", "2026-10"),
}  # fmt: skip
LAUNCH = {"rtx-3090": (1499, "2020-09"), "rtx-4090": (1599, "2022-10"), "rtx-5090": (1999, "2025-01")}

# other spellings -> name
ALIASES = {
    "a100": "a100-80",
    "a100-sxm": "a100-80",
    "a100-pcie": "a100-80-pcie",
    "h100-80": "h100",
    "h100-sxm": "h100",
    "h100-94": "h100-nvl",
    "v100": "v100-16",
    "h200-141": "h200",
    "b200-180": "b200",
    "mi300": "mi300x",
}
