"""`verify` on whole checkpoints of every kind: nothing to complain of, a clear answer for people and machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verify_cases import CASES, CODES, LAYER, NIBBLES, SCALES, Made, change, must_find, put

from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.verify.result import FAMILIES, MOST, Findings
from quantlab.errors import QuantlabError


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_folder, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("case", CASES)
def test_a_whole_checkpoint_is_all_well(made: Made, case: str) -> None:
    found = verify(made(case))
    assert found.ok, found.to_json()
    answers = {check.name: check.passed for check in found.checks}
    assert {"headers", "settings", "shapes", "scales", "codes", "values", "tokenizer", "manifest"} <= answers.keys()
    if case in NIBBLES or case == "awq":
        assert answers["order"] is True  # decided, not "cannot tell"
    assert [name for name, answer in answers.items() if answer is None] in ([], ["order"])


def test_the_bundled_model_is_all_well(tiny_folder: Path) -> None:
    found = verify(tiny_folder)
    assert (found.kind, found.ok) == ("plain", True)
    assert [check.name for check in found.checks if check.passed is None] == ["manifest"]


def test_quick_reads_no_weight(made: Made, tmp_path: Path) -> None:
    broken = made.copy("packed", tmp_path)
    change(broken, "weight_scale", put((3, 1), float("nan")))
    read: list[str] = []
    assert verify(broken, quick=True, progress=lambda what, share: read.append(what)).ok
    assert read == ["headers"]
    assert not verify(broken).ok


def test_progress_names_what_is_read_and_ends_at_the_end(made: Made) -> None:
    told: list[tuple[str, float]] = []
    verify(made("packed"), progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert LAYER in [what for what, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.02)


def test_it_can_be_interrupted(made: Made) -> None:
    def interrupt(what: str, share: float) -> None:
        if what == LAYER:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(made("packed"), progress=interrupt)


def test_faults_as_an_error(made: Made, tmp_path: Path) -> None:
    assert verify(made("packed")).require().fault is None
    broken = made.copy("packed", tmp_path)
    change(broken, "weight_scale", put((3, 1), -1.0))
    with pytest.raises(QuantlabError, match="negative"):
        verify(broken).require()


def test_the_command_line(made: Made, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    good = run_cli("verify", made("packed"))
    assert good.code == 0
    broken = made.copy("packed", tmp_path)
    change(broken, "weight_scale", put((3, 1), float("inf")))
    run_cli("verify", broken).must_say(1, "infinite", LAYER, "quantize the layer again")
    as_json = run_cli("verify", broken, "--json")
    found = json.loads(as_json.out)
    assert (found["kind"], found["ok"]) == ("compressed-tensors", False)
    assert [check["name"] for check in found["checks"] if check["passed"] is False] == ["scales"]
    assert run_cli("verify", broken, "--quick").code == 0
    run_cli("verify", tmp_path / "nowhere").must_say(1, "nowhere", "check the path")


def test_faults_that_are_alike_are_one_sentence() -> None:
    findings = Findings()
    for i in range(200):
        findings.fault("shapes", f"layer {i} is wrong", "wrong")
    for i in range(MOST + 2):
        findings.fault("values", f"tensor {i} is odd")
    findings.fault("headers", "a file is short")
    found = findings.checks()
    assert [check.name for check in found] == ["headers", "shapes", *["values"] * MOST]  # the most telling first
    assert found[1].what == "layer 0 is wrong (199 more like this)"
    assert "2 other faults" in found[-1].what
    assert set(FAMILIES) > {check.name for check in found}


def test_a_name_cannot_write_to_the_terminal() -> None:
    findings = Findings()
    findings.fault("headers", "a tensor \x1b[2J\udc80")
    assert findings.checks()[0].what == "a tensor \\x1b[2J\\udc80"


@pytest.mark.parametrize("case", SCALES)
def test_a_missing_scale_is_found_in_the_headers(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    part = SCALES[case][0]
    change(folder, part, lambda tensor: None)
    whole_bytes = CODES[case] == "weight" and part == "weight_scale"  # without it the codes are a parameter of odd type
    must_find(folder, *(("types", LAYER, "no scale") if whole_bytes else ("shapes", LAYER, part)), quick=True)
