"""Other engines a learner meets: the command that serves their checkpoint, the version it is for, and its status.

vLLM and llama.cpp are run by quantlab itself (`quantlab serve`). The others are commands to copy, from their own
documentation: none of them was run for this course, which `status` says.
"""

from __future__ import annotations

from dataclasses import dataclass

CHECKED = "2026-11-27"  # when the versions were looked up


@dataclass(frozen=True)
class Other:
    """An engine: what it takes, the command (MODEL is the learner's folder or file, KEY a random key), its status."""

    name: str
    version: str
    takes: str
    command: str
    run_here: bool
    maintained: bool
    status: str
    source: str

    def for_model(self, model: str, key: str = "$KEY") -> str:
        """The command for one model.

        >>> OTHERS["tensorrt-llm"].for_model("out/awq")
        'trtllm-serve out/awq --host 127.0.0.1 --port 8000'
        """
        return self.command.replace("MODEL", model).replace("--api-key KEY", f"--api-key {key}")


_ROWS = (
    Other("vllm", "0.33.0", "folders: AWQ, GPTQ, compressed-tensors, FP8",
          "docker run --gpus all --ipc=host -p 127.0.0.1:8000:8000 -v $(realpath MODEL):/model -e VLLM_API_KEY "
          "vllm/vllm-openai:v0.33.0 --model /model",
          True, True, "run by this course: its CPU build in the tests, 0.26.0 on an H200; the Docker image was not",
          "https://docs.vllm.ai/en/stable/deployment/docker.html"),
    Other("sglang", "0.5.23", "folders: AWQ, GPTQ, compressed-tensors, FP8",
          "python -m sglang.launch_server --model-path MODEL --host 127.0.0.1 --port 30000 --api-key KEY",
          False, True, "maintained; not run here; its key is seen by whoever lists processes",
          "https://docs.sglang.io/docs/advanced_features/server_arguments"),
    Other("tensorrt-llm", "1.2.1", "folders quantized by NVIDIA ModelOpt",
          "trtllm-serve MODEL --host 127.0.0.1 --port 8000",
          False, True, "maintained; not run here; takes no key",
          "https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve.html"),
    Other("ollama", "of the day", "GGUF files, named in a Modelfile: FROM MODEL",
          "ollama create mine -f Modelfile && ollama run mine",
          False, True, "maintained; not run here; takes no key", "https://docs.ollama.com/import"),
    Other("tgi", "its last", "folders: AWQ, GPTQ, compressed-tensors",
          "docker run --gpus all --shm-size 1g -p 127.0.0.1:8080:80 -v $(realpath MODEL):/model "
          "ghcr.io/huggingface/text-generation-inference --model-id /model",
          False, False, "archived in March 2026: choose another", "https://github.com/huggingface/text-generation-inference"),
)  # fmt: skip
OTHERS = {row.name: row for row in _ROWS}


def curl(url: str = "http://127.0.0.1:8000", key: str = "$KEY") -> str:
    """The check that every OpenAI-compatible server answers.

    >>> curl()
    'curl -s http://127.0.0.1:8000/v1/models -H "Authorization: Bearer $KEY"'
    """
    return f'curl -s {url}/v1/models -H "Authorization: Bearer {key}"'
