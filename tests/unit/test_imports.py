"""`import quantlab` and `quantlab --help` are instant because they import nothing heavy. (How fast: make bench.)"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "transformers", "matplotlib", "ipywidgets", "IPython", "huggingface_hub", "httpx", "rich"}


def modules_after(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import quantlab; dir(quantlab)",
        "from quantlab.cli import guard, group; guard(lambda: group.main(['--help'], standalone_mode=False))",
        "import quantlab.layout, quantlab.plan.models, quantlab.plan.memory",
        "import quantlab.models.load, quantlab.models.bundled",
        "import quantlab.commands.doctor, quantlab.commands.start",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert modules_after(code) & HEAVY == set()


def test_the_public_names_resolve_when_they_are_asked_for():
    import quantlab

    assert callable(quantlab.load)
    assert callable(quantlab.quantize_tensor)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        quantlab.quantise  # noqa: B018
