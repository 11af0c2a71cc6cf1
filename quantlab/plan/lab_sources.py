"""Where the labs' models come from: repository, licence, pinned revision, and what its weight files must hash to.

All are in safetensors. Those of SOURCES are ungated; those of OPTIONAL are gated, and no lab needs them. A revision is
a commit of the Hub, so that a model changed later is not taken for this one. The hashes are SHA-256, as the Hub keeps
them for large files; where none is given, the revision alone pins the files (the Hub's client checks each download
against the Hub's own).

Read on 2026-11-27 in public repositories that pin the same files, not on the Hub itself: `read` names one for each
model. Every revision was seen in ten files, each list of hashes in two or more that agree. The sizes are those that the
planner counts, but for headers of 30 to 82 KB (tests/unit/test_lab_recipes.py).
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
    """A repository of the Hub at one revision. files: name -> (bytes, SHA-256). read: where revision and hashes stood.

    gated: the Hub gives it only to those who have accepted its licence there, and have a token.
    """

    repository: str
    revision: str
    licence: str
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    read: str = ""
    gated: bool = False

    def wrong(self, folder: Path) -> Iterator[str]:
        """A sentence for each pinned file of a download that is missing or is another one."""
        for name, (nbytes, sha256) in self.files.items():
            path = folder / name
            if not path.is_file():
                yield f"{name} is not in {folder}"
            elif path.stat().st_size != nbytes:
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


def _shards(*parts: tuple[int, str]) -> dict[str, tuple[int, str]]:
    """The parts of one model by the names that transformers gives them."""
    return {f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(parts, 1)}


_APACHE = "Apache-2.0"
_LIFE = "github.com/beamiter/LifeAI.jl at {}"
_WEEK13 = _LIFE.format("18458a4e, test/fixtures/week13_qwen3_streamed_large_weights/assets.json")
_MANY = "ten public files that name it, as a constant or as a folder of the Hub's cache; no hashes were read"
SOURCES = {  # the planner's name -> where it comes from, smallest first; the last two are only ever served quantized
    "smollm2-135m": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", _APACHE,
        {"model.safetensors": (269060552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c")},
        "github.com/HKati/pulse-release-gates-0.1 at cfcc47db, "
        "PULSE_safe_pack_v0/tools/acquire_q2_reference_inputs_v0.py",
    ),
    "qwen3-0.6b": Source(
        "Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", _APACHE,
        {"model.safetensors": (1503300328, "f47f71177f32bcd101b7573ec9171e6a57f4f4d31148d38e382306f42996874b")},
        _LIFE.format("239e618d, notes/local_model_assets.md"),
    ),
    "qwen3-4b": Source(
        "Qwen/Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", _APACHE,
        _shards(
            (3957900840, "328a91d3122359d5547f9d79521205bc0a46e1f79a792dfe650e99fc2d651223"),
            (3987450520, "6cd087b316306a68c562436b5492edbcf6e16c6dba3a1308279caa5a58e21ca5"),
            (99630640, "e4bf436957184f4eeb86a80e9db394503f1f56446b2e6b7edeac5b81470f4ca1"),
        ),
        _LIFE.format("1789887e, test/fixtures/week12_qwen3_dense_real_weights/assets.json"),
    ),
    "qwen3-8b": Source(
        "Qwen/Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218", _APACHE,
        _shards(
            (3996250744, "31d6a825ae35f11fb85b195b4c42c146c051e446433125a215336abdf95cbf5f"),
            (3993160032, "5991236cea6fe21f3d43cab0f0e84448734fbbe0789816202989f2ddc9d18282"),
            (3959604768, "c5185c4794be2d8a9784d5753c9922db38df478ce11f9ed0b415b7304d896836"),
            (3187841392, "b5ee7de71fbf17db3d5704e0c8f2bc7d005ca9e1d7ca2aeb19827b0cfcaa917a"),
            (1244659840, "20c2d6366ab85c90786ccdd829cd2b9e7d30ef3b2ebbb998280e7e4014b542ff"),
        ),
        _WEEK13,
    ),
    "qwen3-14b": Source(
        "Qwen/Qwen3-14B", "40c069824f4251a91eefaf281ebe4c544efd3e18", _APACHE,
        _shards(
            (3841788544, "e942bdbdf08857d16a8fef7d1dae9fceabeb4e84def6043485fe2f6f085dab0e"),
            (3963750816, "f7c9c6eee628f5ad831d2d1d292e120505e5fcadeb38f88b4d3c4cb86306ccf9"),
            (3963750880, "dfb8c5df9404b41ad6ae74e8b6b367135f017b4467b884cf71b17c71954f18a9"),
            (3963750880, "eab286fec759e3e59ab228621aefa0fef14ed56039e06f959e67257d5af7604d"),
            (3963750880, "97f0dc2992e59da95c466eff6f4fd0c8335843bbc36ed5c913a6f5150748c0e6"),
            (3963750880, "9e8e76a013cd5e253865b792991e0b410f869b136b3c500079b531b09198e99e"),
            (3963750880, "0aee70ee6e91dc00d818804fb47f124d13ee4ad5b4a64553e09dbf9391cd5750"),
            (1912371880, "0d6b92296e326d39bbbaeb32c3ec454ac606da843d4c8ffa8edf010b62b8c9e0"),
        ),
        _WEEK13,
    ),
    "qwen3-32b": Source(
        "Qwen/Qwen3-32B", "9216db5781bf21249d130ec9da846c4624c16137", _APACHE,
        _shards(
            (3957109648, "52562b2ff97b61764260273e71bf5b4cf8a66f569399398f26dec0300fcf1316"),
            (3900791760, "e26764b2c6878e3fb7198895fa833ec62838d84a19665e6abfbae43c6daf02b3"),
            (3900791760, "6c5ba7bed9c52bc121e75cbe8a7be46936d0006cc80f42a6d5886ed40b4c2a62"),
            (3900791800, "f736f6ac4d8c30866107fb1185a05b3c3cfce9717720082f466fa44e691bcec8"),
            (3900791800, "a52ed375c083209c54d42ac510afeb1fbb5af4f193be2dc7d103f665a0f212d3"),
            (3900791800, "37fae28990b0e4a70228549d040c0393e87bee3820d59e58e47844974d8dff5b"),
            (3900791800, "37776006aeaba29eca8bc73b2b963fe3477e1c2e3f6a27cb9527be75b905e1bf"),
            (3900791800, "73e74e9129674fe330948005075d70ab4fa0b92b68fb220c5a693f9cea553730"),
            (3900791800, "a044b3602a01bd8ea62ff51badf9cc038ab1d73d97399480e6a55b4c86fa7fa6"),
            (3900791800, "9966612ba7ecfc2cd2e592fb95224b86d743271ff88e172cc272a4b26382aa75"),
            (3900791800, "e2a058a0ac7d4b992b731c29221ecfb4b76b8a48d9004d0e8a62ba44f699845c"),
            (3900791800, "58a1aa89093fea07325f787072a468e3482a470ff4b7fe5ead5f749683907c40"),
            (3900791800, "35f3381bab31a23370c37d922290aeecdf603418336058fb86fe42d8f51ac40c"),
            (3900791800, "8713b062ddc178acf5917610b7f4b64eede833b2ea4aa37bd562dcf2f3a3339d"),
            (3900791800, "bec439d23931821a236d8f62fa79deecf5551bd25602278aa2ae0ce432b378cf"),
            (3900791800, "e569139fadd61fe7c8f9eb1c976d9a627cae48c57ddf228cfbd0593c59c64ff7"),
            (3055341992, "1f47c318fcd7797c0f85b4233cb754438b10e795b8bc874889090c416a94bd38"),
        ),
        _WEEK13,
    ),
    "qwen2.5-72b": Source(
        "Qwen/Qwen2.5-72B-Instruct", "495f39366efef23836d0cfae4fbe635880d2be31", "Qwen licence", read=_MANY
    ),
    "qwen3-235b-a22b": Source(
        "Qwen/Qwen3-235B-A22B", "8efa61729e24bd65b1d152b5ab5409052aa80e65", _APACHE, read=_MANY
    ),
}  # fmt: skip
OPTIONAL = {  # gated: for those who have a token and have accepted the licence
    "llama-3.1-8b": Source(
        "meta-llama/Llama-3.1-8B-Instruct", "0e9e39f249a16976918f6564b8830bc894c89659", "Llama 3.1 Community License",
        read=_MANY, gated=True,
    ),
    "llama-3.3-70b": Source(
        "meta-llama/Llama-3.3-70B-Instruct", "6f6073b423013f6a7d4d9f39144961bfbfbc386b", "Llama 3.3 Community License",
        read=_MANY, gated=True,
    ),
}  # fmt: skip
