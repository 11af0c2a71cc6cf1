"""The page of tools/equality.py: what was found, as tables and plain words. A pure function of its JSON."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

HEAD = """\
# The same checkpoint: ours and the library's

Written by `python tools/equality.py`. The figures are in [equality.json](equality.json).

Every row is one model stored in one format, once by quantlab and once by the library that people deploy, each in a
process of its own, from the same weights and the same calibration tokens. There are two kinds of sameness, and a table
for each.

- **Rounding to nearest** has one right answer. Here the files must be equal, and a difference would be a fault.
- **A search** (GPTQ, AWQ) has many answers that are as good. Two runs of one library on two machines differ too.
  Here the share of equal codes says how near the two are, and the perplexities whether one is worse.

How to read a row:

| column | says |
|---|---|
| codes, scales, bytes | the share that is equal: of codes; of scales, zero points and the like; of quantized bytes |
| file | whether every tensor is the same, byte for byte, quantized or not; for GGUF the whole file |
| again | the library's file, read by our reader and packed again by our packer, has the same bytes |
| logits | the largest difference of a logit at any position of the evaluation text, in float32 (GGUF: by llama.cpp) |
| perplexity | of ours and of theirs, on that text |
| seconds | of each process's work, one run on a busy machine; for races see [benchmarks](benchmarks_methods.md) |
"""

GIVEN = """\
**Given the same inputs the codes are the same.** With the library's own Hessian and grid our GPTQ gives the codes of
GPTQModel and llm-compressor to the last bit (tests/reference/test_gptq_codes.py). The same scaled weights get AutoAWQ's
bytes (test_awq_pack.py, test_checkpoint_autoawq.py), and with `relative=False` the scale that we choose never has a
larger output error than its choice (test_awq_scales.py).
"""

LOADING = """\
### Who loads it

Our file and the library's are loaded by those that serve such files. The figure is the distance of the log-probability
of a token from what our own dequantized weights (in bfloat16) predict in float32: the mean, and the largest of {tokens}
tokens, in nats. The loaders compute in bfloat16, and the first row says what that alone costs. Formats marked A8 round
inputs to 8 bits as well, which our dequantized weights do not: their distance is larger. transformers loads AWQ and
GPTQ in GPTQModel's environment. llama.cpp ran every GGUF file above: the perplexities are its own.
"""
STAND_IN = """\
This CPU has no AVX-512, and vLLM's build for such CPUs has no 4-bit kernel: 4-bit integers were read, joined and
ordered by vLLM, and multiplied by the stand-in of `quantlab/serve/vllm_server.py`.
"""
ENGINES = {"transformers": "transformers", "vllm": "vLLM"}
LONGEST = 200  # letters of what an engine says of a file that it does not load
GUIDES = {"int8": "A8", "fp8_e4m3_channel": "A8", "fp8_e4m3_block128": "A8", "llm_int8": "A8"}


def page(facts: dict[str, Any]) -> str:
    """docs/equality.md."""
    parts = [HEAD]
    for name, found in facts["models"].items():
        parts.append(_model(name, found))
    parts.append(_versions(facts))
    return "\n".join(parts)


def _model(name: str, found: dict[str, Any]) -> str:
    rows: list[Row] = found["rows"]
    good = [row for row in rows if "error" not in row]
    rounded, searched = ([row for row in good if bool(row["why"]) is search] for search in (False, True))
    lines = [
        f"## {name}", "",
        f"Measured on {found['date']}, on {found['machine']} {'with' if found['avx512'] else 'without'} AVX-512. "
        f"Groups of {found['group']} where a format leaves the choice; {found['windows']} windows of 512 tokens of the "
        f"bundled stories to calibrate on (AWQ: {found['searched']}); {found['stories']} evaluation stories.",
    ]  # fmt: skip
    if found["left_out"]:
        lines.append(f"Left out here, for the time that they take on a CPU: {', '.join(found['left_out'])}.")
    equal = sum(row["identical"] for row in rounded)
    lines += ["", "### Rounding to nearest: the same file", "",
              f"{equal} of {len(rounded)} are equal byte for byte.", "", *_table(rounded)]  # fmt: skip
    if searched:
        lines += ["", "### Searches, run independently", "", *_table(searched), "", *_reasons(searched)]
    for row in rows:
        if "error" in row:
            lines.append(f"Not made: {row['library']} {row['method']} {row['name']}: {row['error']}.")
    return "\n".join([*lines, "", LOADING.format(tokens=found["tokens"]), *_loading(good, found["bf16"]), ""])


def _table(rows: list[Row]) -> list[str]:
    lines = [
        "| library | method | format | codes | scales | bytes | file | again | logits | perplexity: ours, theirs "
        "| seconds: ours, theirs |",
        "|---|---|---|---:|---:|---:|---|---|---:|---|---|",
    ]
    for row in rows:
        made = [f"{one['seconds']:.0f}" for one in row["made"]]
        lines.append(
            f"| {row['library']} | {row['method']} | {row['name']} | {_share(row['codes'])} | {_share(row['scales'])} "
            f"| {_share(row['nbytes'])} | {'equal' if row['identical'] else 'differs'} | {_yes(row['again'])} "
            f"| {row['logits']:.2g} | {row['perplexity']:.3f}, {row['their_perplexity']:.3f} | {', '.join(made)} |"
        )
    return lines


def _reasons(rows: list[Row]) -> list[str]:
    reasons = [f"- {row['library']}, {row['method']}: {row['why']}." for row in rows]
    return ["Why codes differ in two independent runs:", "", *reasons, "", GIVEN.rstrip()]


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return "all" if share == 1 else f"{min(share, 0.9999):.2%}"


def _yes(known: bool | None) -> str:
    return "" if known is None else "yes" if known else "no"


def _loading(rows: list[Row], bf16: dict[str, Any]) -> list[str]:
    lines = [
        "| library | method | format | transformers: ours | theirs | vLLM: ours | theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = [_loaded(bf16[engine]) if engine in bf16 else "" for engine in ("transformers", "vllm")]
    lines.append(f"| | | bf16, as it was | {plain[0]} | | {plain[1]} | |")
    faults: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row["loads"]:
            continue
        cells = []
        for engine in ("transformers", "vllm"):
            said = row["loads"].get(engine, [])
            cells += [_loaded(one) for one in said] or ["", ""]
            for fault in dict.fromkeys(one["error"] for one in said if "error" in one):
                faults.setdefault((ENGINES[engine], _one_line(fault)), []).append(row["name"])
        marked = f"{row['name']} {GUIDES[row['name']]}" if row["name"] in GUIDES else row["name"]
        lines.append(f"| {row['library']} | {row['method']} | {marked} | {' | '.join(cells)} |")
    if any(one.get("stand_in") for row in rows for one in row["loads"].get("vllm", [])):
        lines += ["", STAND_IN.rstrip()]
    if faults:
        lines += ["", "What did not load, and why in the engine's words:", ""]
        lines += [f"- {engine}, {', '.join(names)}: {fault}" for (engine, fault), names in faults.items()]
    return lines


def _loaded(one: dict[str, Any]) -> str:
    return "no" if "error" in one else f"{one['mean']:.3f}, {one['largest']:.2f}"


def _one_line(fault: str) -> str:
    words = " ".join(fault.split())
    return words if len(words) < LONGEST else words[:LONGEST].rpartition(" ")[0] + " ..."


def _versions(facts: dict[str, Any]) -> str:
    found: dict[str, set[str]] = {}
    for model in facts["models"].values():
        for row in model["rows"]:
            for one in [*row["made"], *(one for said in row.get("loads", {}).values() for one in said)]:
                for package, version in one.get("versions", {}).items():
                    found.setdefault(package, set()).add(version)
    listed = ", ".join(f"{package} {' and '.join(sorted(found[package]))}" for package in sorted(found))
    return f"## Versions\n\n{listed}.\n"
