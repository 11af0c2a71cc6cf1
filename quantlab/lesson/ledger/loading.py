"""Checks of lesson 3 that load something bad: a wrong group size (F10), and a model with code of its own (F13)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from quantlab.errors import QuantlabError
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.lesson.lesson3.wrong_group import quality_if_believed, what_the_verifier_says
from quantlab.models.bundled import tiny_folder
from quantlab.models.load import resolve


def f10(groups: Sequence[float], stored: float, garbage_kl: float) -> Finding:
    """What a reader makes of a checkpoint whose config.json says another group size, and whether ours notices."""
    true = quality_if_believed(int(stored), int(stored))
    parts, figures, caught = [], [], 0
    for group in map(int, groups):
        try:
            found = quality_if_believed(group, int(stored))
        except QuantlabError:
            parts.append(Part(f"groups of {group}: too few scales, a reader stops or reads beyond them", False))
        else:
            says = f"groups of {group}: KL {found.kl_mean:.2f} instead of {true.kl_mean:.3f}, the same next token at "
            parts.append(Part(f"{says}{found.top1_agreement:.0%} of places", found.kl_mean > garbage_kl))
            figures.append(f"KL {found.kl_mean:.2f} if groups of {group} are believed")
        caught += bool(what_the_verifier_says(group, int(stored)))
    figure = f"{'; '.join(figures)}; {true.kl_mean:.3f} as stored; quantlab verify catches {caught} of {len(groups)}"
    return Finding(tuple(parts), figure, f"AWQ, stored in groups of {stored:g}, config.json changed on a copy")


_EVIL = "from pathlib import Path\nPath({mark!r}).touch()\nfrom transformers import LlamaConfig as EvilConfig\n"
_LOAD = "import sys, transformers\ntransformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)\n"


@lru_cache(maxsize=1)
def remote_code() -> tuple[bool, str]:
    """Whether a model's own code ran when it was trusted, and what our loader says when it is not asked by name."""
    with tempfile.TemporaryDirectory(prefix="quantlab-remote-code-") as place:
        folder, mark = Path(place) / "model", Path(place) / "it-ran"
        shutil.copytree(tiny_folder(), folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {
            "model_type": "evil",
            "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"},
        }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "evil.py").write_text(_EVIL.format(mark=str(mark)), encoding="utf-8")
        try:
            resolve(str(folder))
            refused = ""
        except QuantlabError as error:
            refused = str(error).replace(str(folder), "MODEL")
        assert not mark.exists(), "looking at a model ran its code"
        env = os.environ | {"HF_MODULES_CACHE": str(Path(place) / "modules"), "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            [sys.executable, "-c", _LOAD, str(folder)], env=env, capture_output=True, check=False, timeout=120
        )
        return mark.exists(), refused


def f13(loader: str) -> Finding:
    """Load a model with code of its own, trusted and not."""
    ran, refused = remote_code()
    parts = (
        Part(f"transformers with trust_remote_code=True {'ran' if ran else 'did not run'} the model's own file", ran),
    )
    said = refused or "it loads such a model"
    return Finding(
        parts, f"it {'ran' if ran else 'did not run'}; {loader} refuses: {said}", "A harmless model made now"
    )
