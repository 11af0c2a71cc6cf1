"""Files that are derived from others: written by this script, checked by `make check`.

    python tools/generate.py            write them
    python tools/generate.py --check    exit 1 and name those that are out of date

- README.md, between the markers: the launch badges, from docs/launch.toml
- binder/requirements.txt: what Binder installs, from requirements.lock (CPU torch, no vLLM, no quantizers)
- docs/formats.md: every format and method, from the catalogs of the library
- docs/lab_recipes.md: which model and formats the labs take on each GPU, from the planner
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

import install
import lab_recipes_page
from markdown_rows import row

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- badges: written by tools/generate.py -->", "<!-- /badges -->"
NOT_ON_BINDER = {"autoawq", "llmcompressor", "auto-round", "llama-cpp-python", "torch"}


def badges() -> str:
    """Markdown images that are links, and what a notebook needs where it comes alone."""
    data = tomllib.loads((ROOT / "docs/launch.toml").read_text(encoding="utf-8"))
    names = {
        "repository": data["repository"],
        "ref": data["ref"],
        "notebook": data["first_notebook"],
        "repository_url_quoted": quote(f"https://github.com/{data['repository']}", safe=""),
    }
    links = "\n".join(f"[![Open in {b['name']}]({b['image']})]({b['link'].format(**names)})" for b in data["badge"])
    alone = f"%pip install -q git+https://github.com/{data['repository']}"
    return f"{links}\n\nColab and Kaggle open the notebook alone: run `{alone}` in a first cell."


def readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"README.md: the markers {BEGIN} ... {END} are missing")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{badges()}\n{END}", text, flags=re.DOTALL)


def binder_requirements() -> str:
    """The lock without its test tools, for Linux; torch in its CPU build."""
    entries = install.locked()
    keep = {name: e for name, e in entries.items() if name not in NOT_ON_BINDER | install.test_only()}
    pins = [e.split(" ;", maxsplit=1)[0].split(" \\", maxsplit=1)[0] for e in keep.values() if "linux" in e]
    torch = f"torch=={install.version_of(entries['torch'])}+cpu"
    head = ["# written by tools/generate.py from requirements.lock", f"--extra-index-url {install.CPU_WHEELS}", torch]
    return "\n".join([*head, *pins]) + "\n"


def formats() -> str:
    """Every format of the catalog: its bytes, and the library that it equals; every method and its source."""
    from quantlab.formats.catalog import FORMATS, options
    from quantlab.methods.catalog import METHODS

    lines = [
        "# Formats and methods",
        "",
        "Written by `python tools/generate.py` from `quantlab.formats.catalog` and `quantlab.methods.catalog`.",
        "",
        '`quantlab.quantize_tensor(W, "NAME", **options)` stores a weight matrix; `to_bytes()` gives the bytes',
        "that the reference library stores. Proofs: `tests/reference`; laws that all keep: `tests/conformance`.",
        "",
        "## Formats",
        "",
        "| name | bits a weight | block | how the bytes are spent | equal to | how close | options |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, fmt in FORMATS.items():
        reference, block = fmt.reference, fmt.layout.block if fmt.layout.block > 1 else "none"
        taken = ", ".join(f"`{option}`" for option in (*options(name), *(["importance"] * fmt.uses_importance)))
        how = f"{reference.fidelity.value}: {reference.note}" if reference.note else reference.fidelity.value
        cells = [f"`{name}`", f"{fmt.layout.bits_per_weight:.4g}", block, fmt.layout.note]
        lines.append(row(*cells, f"{reference.package} {reference.version}", how, taken))
    lines += ["", "## Methods", "", "| name | what it does | needs calibration | source |", "|---|---|---|---|"]
    lines += [row(f"`{m.name}`", m.summary, "yes" if m.needs_stats else "no", m.source) for m in METHODS.values()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wanted = {
        ROOT / "README.md": readme(),
        ROOT / "binder/requirements.txt": binder_requirements(),
        ROOT / "docs/formats.md": formats(),
        ROOT / "docs/lab_recipes.md": lab_recipes_page.page(),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: " + ("out of date; run python tools/generate.py" if check else "written"))
        if not check:
            path.write_text(wanted[path], encoding="utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
