"""Deployment files: what the plan says stands in them, they keep to the public schemas, and no key is in any."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import scale
import yaml
from deploy_schemas import ENGINE, HELM, RAY, SKYPILOT

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.inverse import need
from quantlab.plan.models import shape_of
from quantlab.plan.report import plan
from quantlab.plan.split import why_not_split
from quantlab.plan.stages import Parallel, need_of_stage, parallel
from quantlab.serve.deploy import production_stack, ray_serve, skypilot, vllm
from quantlab.serve.deploy.deployment import KEY, deploy
from quantlab.serve.deploy.files import files
from quantlab.serve.deploy.yaml import document

AWQ = "someone/llama-awq"
SCHEMAS = {"ray-serve.yaml": RAY, "helm-values.yaml": HELM, "skypilot.yaml": SKYPILOT}
TOOL = Path(scale.__file__)


class TestSplit:
    @pytest.mark.parametrize(
        ("model", "fmt", "cards", "tensor", "pipeline", "machines"),
        [
            ("llama-3.3-70b", "awq_int4_g128", 1, 1, 1, 1), ("llama-3.3-70b", "awq_int4_g128", 8, 8, 1, 1),
            ("llama-3.1-405b", "bf16", 16, 8, 2, 2), ("qwen2.5-72b", "awq_int4_g128", 2, 1, 2, 1),
            ("qwen2.5-72b", "bf16", 2, 2, 1, 1), ("qwen3-8b", "bf16", 3, 1, 3, 1), ("qwen3-8b", "bf16", 6, 2, 3, 1),
        ],
    )  # fmt: skip
    def test_as_many_cards_as_the_cut_allows_and_stages_for_the_rest(
        self, model: str, fmt: str, cards: int, tensor: int, pipeline: int, machines: int
    ) -> None:
        found = parallel(shape_of(model), fmt, cards)
        assert (found.tensor, found.pipeline, found.machines) == (tensor, pipeline, machines)
        assert found.cards == cards
        assert not why_not_split(shape_of(model), fmt, tensor)
        assert bool(found.why) == (tensor < min(cards, 8))

    @pytest.mark.parametrize(("cards", "of_a_machine"), [(12, 8), (0, 8), (7 * 8, 1)])
    def test_what_does_not_go_is_refused(self, cards: int, of_a_machine: int) -> None:
        with pytest.raises(UsageError):
            parallel(shape_of("qwen3-8b"), "bf16", cards, of_a_machine)  # 36 layers make no 56 stages

    def test_one_stage_needs_what_the_planner_says(self) -> None:
        setup = plan("llama-3.3-70b", "l40s", "awq-int4", 8192, 8, gpus=2).setup
        assert need_of_stage(setup, parallel(setup.shape, setup.fmt, 2)) == need(setup)

    @pytest.mark.parametrize("model", ["llama-3.3-70b", "qwen3-8b", "qwen3-4b"])  # the last ties its embedding
    @pytest.mark.parametrize("stages", [2, 4])
    def test_stages_hold_the_model_between_them_and_no_more_than_ends_and_rounding_add(
        self, model: str, stages: int
    ) -> None:
        setup = plan(model, "h100", "bf16", 4096, 4).setup
        one, stage = need(setup), need_of_stage(setup, Parallel(1, stages))
        assert stage.weights * stages >= one.weights
        shape = setup.shape
        ends = 2 * shape.vocab * shape.hidden
        assert stage.weights <= one.weights * -(-shape.layers // stages) / shape.layers + ends
        assert stage.kv == pytest.approx(one.kv * -(-shape.layers // stages) / shape.layers, abs=2)


class TestDeployment:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"gpus": 1, "concurrency": 8}, "does not fit"), ({"fmt": "q4_k_m"}, "llama.cpp"),
            ({"gpu": "l40z"}, "did you mean 'l40s'"), ({"replicas": 0}, "replicas"), ({"gpus": 0}, "at least 1"),
            ({"checkpoint": "a b"}, "no checkpoint"), ({"checkpoint": "--port"}, "no checkpoint"),
            ({"checkpoint": "a/b; rm -rf ."}, "no checkpoint"), ({"revision": "$(id)"}, "no revision"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_sentence(self, changes: dict[str, object], said: str) -> None:
        asked = {"model": "llama-3.3-70b", "gpu": "l40s", "fmt": "awq-int4", "checkpoint": AWQ, "gpus": 2, **changes}
        with pytest.raises(QuantlabError, match=said):
            deploy(**asked)  # type: ignore[arg-type]

    def test_a_replica_that_fits_only_without_the_texts_asked_for_is_refused(self) -> None:
        deploy("llama-3.3-70b", "l40s", "awq-int4", AWQ, gpus=2, context=8192, concurrency=8)
        with pytest.raises(QuantlabError, match="does not fit"):
            deploy("llama-3.3-70b", "l40s", "awq-int4", AWQ, gpus=2, context=8192, concurrency=80)


class TestFiles:
    @pytest.mark.parametrize("example", scale.examples())
    def test_they_keep_to_the_schemas_and_say_what_the_plan_says(self, example: str) -> None:
        one = scale.examples()[example]
        made = files(one)
        assert "vllm.sh" in made
        jsonschema.validate(vllm.settings(one), ENGINE)
        for name, schema in SCHEMAS.items():
            if name in made:
                jsonschema.validate(yaml.safe_load(made[name]), schema)
        engine = yaml.safe_load(made["ray-serve.yaml"])["applications"][0]["args"]["llm_configs"][0]["engine_kwargs"]
        assert engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1) == one.setup.gpus
        assert engine["max_model_len"] == one.setup.context

    def test_the_schemas_refuse_what_would_be_a_slip(self) -> None:
        one = deploy("qwen3-8b", "l4", "awq-int4", "Qwen/Qwen3-8B-AWQ", replicas=2)
        for module, schema, path in (
            (ray_serve, RAY, ("http_options", "host")),
            (production_stack, HELM, ("servingEngineSpec", "vllmApiKey")),
            (skypilot, SKYPILOT, ("secrets", KEY)),
        ):
            data = module.data(one)
            jsonschema.validate(data, schema)
            data[path[0]][path[1]] = "a-string"
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(data, schema)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**module.data(one), "stranger": 1}, schema)

    @pytest.mark.parametrize("example", scale.examples())
    def test_no_key_no_quantization_and_what_is_exposed_is_said(self, example: str) -> None:
        for name, text in files(scale.examples()[example]).items():
            assert "EXPOSES" in text, name
            assert "--api-key" not in text
            assert "quantization" not in text
            assert not re.search(r"[0-9a-f]{32}|sk-[A-Za-z0-9]{8}|hf_[A-Za-z0-9]{8}", text), name
            assert max(map(len, text.splitlines())) <= 125, name

    def test_only_a_service_listens_for_others(self) -> None:
        for replicas, host in ((1, "127.0.0.1"), (2, "0.0.0.0")):
            one = deploy("qwen3-8b", "l4", "awq-int4", "Qwen/Qwen3-8B-AWQ", replicas=replicas)
            task = skypilot.data(one)
            assert f"--host {host}" in task["run"]
            assert ("ports" in task["resources"]) == ("service" in task) == (replicas > 1)
            assert vllm.words(one)[-3:-1] == ["127.0.0.1", "--port"]

    def test_helm_takes_pipeline_parallel_as_words_and_refuses_several_machines(self) -> None:
        one = deploy("qwen2.5-72b", "l40s", "awq-int4", "someone/qwen", gpus=2, revision="v1", kv_dtype="fp8")
        config = production_stack.data(one)["servingEngineSpec"]["modelSpec"][0]["vllmConfig"]
        words = config["extraArgs"]
        pairs = {("--pipeline-parallel-size", "2"), ("--revision", "v1"), ("--kv-cache-dtype", "fp8")}
        assert pairs <= set(itertools.pairwise(words))
        assert "tensorParallelSize" not in config
        with pytest.raises(UsageError, match="2 machines"):
            production_stack.data(replace(one, of_a_machine=1))

    @pytest.mark.parametrize("rank", ["0", "1"])
    def test_the_scripts_run_and_ask_for_their_key(self, tmp_path: Path, rank: str) -> None:
        (tmp_path / "vllm").write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")  # says what it was given
        (tmp_path / "vllm").chmod(0o755)
        for folder, one in scale.examples().items():
            script = str(scale.PLACE / folder / "vllm.sh")
            environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
            without = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
            assert without.returncode != 0
            assert KEY in without.stderr
            environment |= {KEY: "secret", "NODE_RANK": rank, "HEAD_IP": "10.0.0.1"}
            told = subprocess.run([script], env=environment, capture_output=True, text=True, check=True).stdout.split()
            assert told[: len(vllm.words(one)) - 1] == vllm.words(one)[1:]
            assert "secret" not in told
            assert ("--headless" in told) == (one.split.machines > 1 and rank == "1")

    def test_a_tasks_commands_are_shell(self) -> None:
        for one in scale.examples().values():
            for part in ("setup", "run"):
                text = skypilot.data(one)[part]
                assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
                shlex.split(text)


class TestYaml:
    @pytest.mark.parametrize(
        "data",
        [
            {"a": "no", "b": "12:30", "c": "1e3", "d": '"', "e": "#", "f": "", "g": "é\\"},
            {"a": [], "b": {}, "c": None},
            {"a": [[1, 2], ["x"]], "b": [{"c": [{"d": 1}]}]}, {"a": "one\n  two\n\nthree\n", "b": [{"c": "x\ny\n"}]},
        ],
    )  # fmt: skip
    def test_pyyaml_reads_it_back(self, data: dict[str, object]) -> None:
        assert yaml.safe_load(document(data, "a\nb # c")) == data


class TestInStep:
    def test_the_committed_files_are_those_that_the_tool_makes(self) -> None:
        done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")
        readme = (scale.PLACE / "README.md").read_text(encoding="utf-8")
        for name in {path.name for path in scale.wanted()} | set(scale.examples()):
            assert f"`{name}`" in readme, name

    def test_the_check_sees_a_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(scale, "PLACE", tmp_path / "labs/scale")
        monkeypatch.setattr(sys, "argv", ["scale.py"])
        assert scale.main() == 0
        monkeypatch.setattr(sys, "argv", ["scale.py", "--check"])
        assert scale.main() == 0
        changed = next((tmp_path / "labs/scale").glob("*/skypilot.yaml"))
        changed.write_text(changed.read_text(encoding="utf-8").replace("8000", "8080"), encoding="utf-8")
        (changed.parent / "stray.yaml").write_text("a: 1\n", encoding="utf-8")
        assert scale.main() == 1
        said = capsys.readouterr().out
        assert "skypilot.yaml" in said
        assert "stray.yaml" in said

    def test_a_deployment_of_ones_own(self, tmp_path: Path) -> None:
        words = ["--own", str(tmp_path / "mine"), "qwen3-8b", "l4", "awq-int4", "Qwen/Qwen3-8B-AWQ", "replicas=3"]
        done = subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((tmp_path / "mine/skypilot.yaml").read_text())["service"]["replicas"] == 3
        done = subprocess.run(
            [sys.executable, str(TOOL), *words, "cards=2"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "cards is not one of" in done.stderr
