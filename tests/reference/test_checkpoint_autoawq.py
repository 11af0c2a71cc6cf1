"""Our AWQ checkpoint against AutoAWQ's own: what its packer and `save_quantized` write for the same layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_cases import Layers, different, quantize, weights_of
from int_references import autoawq, dequantize_gemm
from verify_cases import faults_of_weights

from quantlab.checkpoints.read import read_checkpoint
from quantlab.checkpoints.write import write_checkpoint

QUANTIZED = ("qweight", "qzeros", "scales")


@pytest.fixture(scope="module")
def layers(tiny_folder: Path) -> Layers:
    return quantize(weights_of(tiny_folder), "awq_int4_g128")


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AutoAWQ saves the bundled model: every layer rounded and packed by its functions, uncalibrated."""
    from awq.models._config import AwqConfig
    from awq.models.llama import LlamaAWQForCausalLM
    from awq.utils.module import set_op_by_name
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    for name, W in weights_of(tiny_folder).items():
        set_op_by_name(model, name, autoawq(W, 128))
    folder = tmp_path_factory.mktemp("autoawq") / "theirs"
    settings = AwqConfig(q_group_size=128)
    LlamaAWQForCausalLM(model, "llama", True, model.config, settings, None).save_quantized(str(folder))
    return folder


def test_autoawq_saves_the_same(tiny_folder: Path, theirs: Path, layers: Layers, tmp_path: Path) -> None:
    ours = write_checkpoint(tiny_folder, tmp_path / "ours", layers)
    assert different(ours, theirs) == []
    configs = [json.loads((where / "config.json").read_text()) for where in (ours, theirs)]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]


def test_autoawqs_checkpoint_is_read(theirs: Path, layers: Layers) -> None:
    assert faults_of_weights(theirs) == []
    read = read_checkpoint(theirs)
    assert read.keys() == layers.keys()
    for name, Q in layers.items():
        assert read[name].fmt == Q.fmt
        assert read[name].to_bytes() == Q.to_bytes()
        W = dequantize_gemm(*(Q.parts[part] for part in QUANTIZED), 4, 128).t()
        assert torch.equal(read[name].dequantize().half(), W), name
