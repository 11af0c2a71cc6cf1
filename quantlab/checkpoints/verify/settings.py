"""config.json against the headers: do the layers have the shapes, the types and the names that the config implies?

Three ways to know what a layer must look like, compared with each other:

    quantization_config   with the layer's own headers: bits, group, symmetric -> types and shapes of all its tensors
                          (quantlab.checkpoints.kind). A group of 64 where the scales were made for 128 ends here
    the model's sizes     hidden_size, num_hidden_layers, ... -> name and shape of every matrix, for families that are
                          described (quantlab.checkpoints.gguf_families); for others "cannot tell"
    what is left out      layers in codes that the config leaves out, and the other way round (left_out.py)

Nothing is read here but headers, and for each layer the few bytes that state its shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from quantlab.checkpoints.gguf_families import expected_shapes, family_of
from quantlab.checkpoints.kind import FLOATS, Found, Kind, NotReadHereError, check, is_head
from quantlab.checkpoints.kinds import kind_of
from quantlab.checkpoints.read import Layer, read_tensors, sort_layers
from quantlab.checkpoints.verify.headers import Model, as_text
from quantlab.checkpoints.verify.left_out import left_out
from quantlab.checkpoints.verify.result import Findings
from quantlab.errors import QuantlabError
from quantlab.models.weights_file import Entry

PLAIN = "plain"
_MARKS = (".qweight", ".weight_packed", ".weight_scale", ".SCB", ".absmax", ".g_idx")  # of layers in codes
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
_LARGEST = 2**31
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_BUFFERS = ("inv_freq", "masked_bias", "attn.bias", "position_ids", "k_scale", "v_scale")  # no parameters of the model
_STRANGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what settings without sense cause


@dataclass(frozen=True)
class Described:
    """A model as its headers and its config agree on it. layers: quantized; plain: everything else.

    known: False where it is quantized in a way that is not read here; then `plain` is all of it.
    """

    kind: str
    layers: dict[str, Layer] = field(default_factory=dict)
    plain: dict[str, Entry] = field(default_factory=dict)
    known: bool = True


def describe(model: Model, findings: Findings) -> Described:
    """Compare config.json with the headers; what is left is what can be read safely."""
    sizes_ok = _sizes(model, findings)
    settings = model.config.get("quantization_config")
    kind = kind_of(model.config)
    if kind is None:
        described = _unquantized(model, settings, findings)
    else:
        assert isinstance(settings, dict)
        described = _quantized(model, kind, settings, findings)
    if described.known:
        _types(described, findings)
        if sizes_ok:
            _family(model, described, settings, findings)
    _embedding(model, findings)
    return described


def embedding(entries: Mapping[str, Entry]) -> Entry | None:
    """The matrix with a row for each token."""
    found = [entry for name, entry in entries.items() if name.endswith(EMBEDDINGS) and len(entry.shape) == 2]
    return found[0] if found else None


def whole(config: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number of config.json; None where it is absent or something else."""
    value = config.get(key)
    return value if type(value) is int and 0 < value < _LARGEST else None


def _sizes(model: Model, findings: Findings) -> bool:
    ok = True
    for key in _SIZES:
        value = model.config.get(key)
        if value is not None and whole(model.config, key) is None:
            where = model.folder / "config.json"
            findings.fault("config", f"{where} has {key} {as_text(value)}, no size of a model; copy the model's own")
            ok = False
    return ok


def _unquantized(model: Model, settings: Any, findings: Findings) -> Described:
    where = model.folder / "config.json"
    if settings is None:
        if packed := sorted(name for name in model.entries if name.endswith(_MARKS)):
            findings.fault(
                "settings",
                f"{packed[0]} belongs to a quantized layer, yet {where} has no quantization_config, so a server would "
                f"load noise; copy the config.json that was written with these weights ({len(packed):,} such tensors)",
            )
        else:
            findings.well("settings", "not quantized")
        return Described(PLAIN, {}, model.entries)
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if not isinstance(method, str):
        what = f"{where} has a quantization_config that names no quant_method; copy the one written with the weights"
        findings.fault("settings", what)
        return Described("unknown", {}, model.entries, known=False)
    what = f"checkpoints of kind {as_text(method)} are not read here: their quantized layers were not examined"
    findings.unsure("settings", what)
    return Described(method[:40], {}, model.entries, known=False)


def _quantized(model: Model, kind: Kind, settings: dict[str, Any], findings: Findings) -> Described:
    found, plain = sort_layers(model.entries, kind)
    where = model.folder / "config.json"
    if not found:
        what = f"{where} says {kind.name}, yet no layer is stored in codes; config and weights do not belong together"
        findings.fault("settings", what)
        return Described(kind.name, {}, plain)
    layers = {}
    for name, parts in found.items():
        read = partial(_small, model, name)
        try:
            layer = _layer(kind, settings, Found(name, parts, read), model, findings)
        except NotReadHereError as error:
            findings.unsure("settings", f"{error}: its quantized layers were not examined")
            return Described(kind.name, {}, model.entries, known=False)
        if layer is not None:
            layers[name] = layer
    formats = sorted({layer.fmt.name for layer in layers.values()})
    findings.well("settings", f"{len(found):,} layers in {', '.join(formats)}, as config.json says")
    findings.well("shapes", "every tensor has the type and shape that config.json implies")
    return Described(kind.name, layers, plain)


def _small(model: Model, layer: str, part: str) -> Any:
    name = f"{layer}.{part}"
    return read_tensors(model.places, [name])[name]


def _layer(kind: Kind, settings: Mapping[str, Any], found: Found, model: Model, findings: Findings) -> Layer | None:
    """A layer whose headers are those that the settings imply; None where they are not.

    Raises NotReadHereError.
    """
    try:
        fmt, shape = kind.layer(settings, found)
        if min(shape) < 1:
            raise QuantlabError(f"{found.name} has shape {list(shape)}; get the model again")
        expected = kind.expected(fmt, shape)
        check(found, fmt, shape, expected)
    except NotReadHereError:
        raise
    except QuantlabError as error:
        findings.fault("shapes", str(error), _alike(str(error), found.name))
        return None
    except _STRANGE as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        sentence = (
            f"{model.folder / 'config.json'} and {found.name} do not fit: {what}; take the config.json that was "
            "written with these weights"
        )
        findings.fault("settings", sentence, _alike(sentence, found.name))
        return None
    return Layer(fmt, shape, {part: found.entries[part] for part in expected})


def _alike(sentence: str, layer: str) -> str:
    """What a sentence shares with that of another layer: all but its name and sizes."""
    return re.sub(r"\d+", "#", sentence.replace(layer, "*"))


def _types(described: Described, findings: Findings) -> None:
    """Parameters that are not quantized are numbers of 16 or 32 bits."""
    for name, entry in described.plain.items():
        if entry.dtype in FLOATS or name.endswith(_BUFFERS) or not name.endswith((".weight", ".bias")):
            continue
        sentence = (
            f"{name} is stored as {entry.dtype}, with no scale beside it; a parameter that is not quantized must be "
            f"{', '.join(FLOATS[:-1])} or {FLOATS[-1]}: write the model again"
        )
        findings.fault("types", sentence, f"stored as {entry.dtype}")
    kinds = sorted({entry.dtype for entry in described.plain.values()})
    findings.well("types", f"everything that is not quantized is {', '.join(kinds) or 'nothing'}")


def _family(model: Model, described: Described, settings: Any, findings: Findings) -> None:
    """Names and shapes of all matrices against the sizes in config.json."""
    if not described.plain:
        return
    try:
        family = family_of(model.config, model.folder / "config.json")
        if model.config["num_hidden_layers"] > len(model.entries):
            raise QuantlabError("more layers than tensors")
        shapes = expected_shapes(family, model.config)
    except (QuantlabError, *_STRANGE):
        if (whole(model.config, "num_hidden_layers") or 0) > len(model.entries):
            layers = model.config["num_hidden_layers"]
            what = f"config.json says {layers:,} layers, the weights are {len(model.entries):,} tensors in all"
            findings.fault("shapes", f"{what}; config and weights do not belong together")
            return
        what = f"models of type {as_text(model.config.get('model_type'))} are not described here"
        findings.unsure("shapes", f"{what}: their layers were compared with quantization_config alone")
        return
    have: dict[str, tuple[int, ...]] = {name: entry.shape for name, entry in described.plain.items()}
    have |= {f"{name}.weight": layer.shape for name, layer in described.layers.items()}
    damaged = findings.failed("headers", "index", "files", "shapes", "settings")
    for name, shape in shapes.items():
        if name in have and have[name] != shape:
            sentence = f"{name} is {list(have[name])}, config.json implies {list(shape)}; they do not belong together"
            findings.fault("shapes", sentence, "another shape")
        elif name not in have and not damaged:
            findings.fault("shapes", f"{name} is missing, the model needs it; download the weights again", "missing")
    surplus = sorted(have.keys() - shapes.keys() - {"lm_head.weight"})
    if matrices := [name for name in surplus if len(have[name]) == 2]:
        what = f"{matrices[0]} has no place in the model that config.json describes ({len(matrices):,} such matrices)"
        findings.fault("shapes", f"{what}; copy the config.json of these weights")
    findings.well("shapes", "every tensor has the name, type and shape that config.json implies")
    if described.layers and isinstance(settings, dict):
        _left_out(described, settings, shapes, findings)


def _left_out(described: Described, settings: dict[str, Any], shapes: Mapping[str, Any], findings: Findings) -> None:
    """A layer is in codes, or left out by config.json: one of the two."""
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    plain = {name for name, entry in described.plain.items() if entry.dtype in FLOATS}
    for layer in matrices:
        if is_head(layer) or f"{layer}.weight".endswith(EMBEDDINGS):
            continue
        said = left_out(described.kind, settings, layer)
        if said is None:
            findings.unsure("settings", "which layers config.json leaves out: its patterns are not followed here")
        elif said and layer in described.layers:
            sentence = f"{layer} is stored in codes, yet config.json leaves it out; take it off that list"
            findings.fault("settings", sentence, "in codes")
        elif not said and f"{layer}.weight" in plain:
            sentence = (
                f"{layer} is not quantized, and config.json does not leave it out, so a server looks for its codes"
            )
            findings.fault(
                "settings", f"{sentence}; add it to the layers left out, or write it in codes", "not in codes"
            )


def _embedding(model: Model, findings: Findings) -> None:
    """A row for each token, whatever the family."""
    entry, vocabulary = embedding(model.entries), whole(model.config, "vocab_size")
    if entry is None or vocabulary is None or findings.failed("shapes"):
        return
    if entry.shape[0] < vocabulary:
        what = f"{entry.name} has {entry.shape[0]:,} rows, config.json says a vocabulary of {vocabulary:,}"
        findings.fault("shapes", f"{what}; they do not belong together")
