"""Where the labs' models come from: repository, licence, pinned revision, and what its weight files must hash to.

All are ungated and in safetensors. A revision is a commit of the Hub, so that a model changed later is not taken for
this one. The hashes are SHA-256, as the Hub keeps them for large files; where none is given, the
revision alone pins the files (the Hub's client checks each download against the Hub's own).

Read on 2026-11-27: each revision and each hash in ten public repositories or more that pin the same files; where a size
is missing, only its hash was read. The sizes of Qwen3-8B's files are those that the planner counts, but for 51 KB of
headers (tests/unit/test_lab_recipes.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quantlab.errors import QuantlabError

CHUNK = 2**24


@dataclass(frozen=True)
class Source:
    """A repository of the Hub at one revision. files: name -> (bytes or None, SHA-256)."""

    repository: str
    revision: str
    licence: str
    files: dict[str, tuple[int | None, str]] = field(default_factory=dict)

    def wrong(self, folder: Path) -> Iterator[str]:
        """A sentence for each pinned file of a download that is missing or is another one."""
        for name, (nbytes, sha256) in self.files.items():
            path = folder / name
            if not path.is_file():
                yield f"{name} is not in {folder}"
            elif nbytes is not None and path.stat().st_size != nbytes:
                yield f"{name} has {path.stat().st_size:,} bytes, not {nbytes:,}: the download is not whole"
            elif _sha256(path) != sha256:
                yield f"{name} is not the file of revision {self.revision[:8]}: its SHA-256 differs"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise QuantlabError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    return digest.hexdigest()


_QWEN = "Apache-2.0"
SOURCES = {  # the planner's name -> where it comes from, smallest first
    "smollm2-135m": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", "Apache-2.0",
        {"model.safetensors": (269060552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c")},
    ),
    "qwen3-0.6b": Source(
        "Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", _QWEN,
        {"model.safetensors": (1503300328, "f47f71177f32bcd101b7573ec9171e6a57f4f4d31148d38e382306f42996874b")},
    ),
    "qwen3-4b": Source(
        "Qwen/Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", _QWEN,
        {
            "model-00001-of-00003.safetensors":
                (3957900840, "328a91d3122359d5547f9d79521205bc0a46e1f79a792dfe650e99fc2d651223"),
            "model-00002-of-00003.safetensors":
                (3987450520, "6cd087b316306a68c562436b5492edbcf6e16c6dba3a1308279caa5a58e21ca5"),
            "model-00003-of-00003.safetensors":
                (None, "e4bf436957184f4eeb86a80e9db394503f1f56446b2e6b7edeac5b81470f4ca1"),
        },
    ),
    "qwen3-8b": Source(
        "Qwen/Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218", _QWEN,
        {
            "model-00001-of-00005.safetensors":
                (3996250744, "31d6a825ae35f11fb85b195b4c42c146c051e446433125a215336abdf95cbf5f"),
            "model-00002-of-00005.safetensors":
                (3993160032, "5991236cea6fe21f3d43cab0f0e84448734fbbe0789816202989f2ddc9d18282"),
            "model-00003-of-00005.safetensors":
                (3959604768, "c5185c4794be2d8a9784d5753c9922db38df478ce11f9ed0b415b7304d896836"),
            "model-00004-of-00005.safetensors":
                (3187841392, "b5ee7de71fbf17db3d5704e0c8f2bc7d005ca9e1d7ca2aeb19827b0cfcaa917a"),
            "model-00005-of-00005.safetensors":
                (1244659840, "20c2d6366ab85c90786ccdd829cd2b9e7d30ef3b2ebbb998280e7e4014b542ff"),
        },
    ),
    "qwen3-14b": Source("Qwen/Qwen3-14B", "40c069824f4251a91eefaf281ebe4c544efd3e18", _QWEN),
    "qwen3-32b": Source("Qwen/Qwen3-32B", "9216db5781bf21249d130ec9da846c4624c16137", _QWEN),
}  # fmt: skip
