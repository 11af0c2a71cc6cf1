"""Which layers config.json leaves out of the quantization, as each kind of checkpoint says it.

    awq                  modules_to_not_convert    any of these texts is in the layer's name
    gptq                 dynamic                   {"-:REGEX": {}}: layers that it matches are left out
    compressed-tensors   ignore, targets           names, or "re:REGEX"
    bitsandbytes         llm_int8_skip_modules     the end of a name, or a regular expression for its beginning

A server makes the other layers ready for codes. If one of those is stored in 16 bits, or one of these in codes, it
refuses the file, or loads noise.

A regular expression from a stranger can keep Python busy for years: `(a+)+$` needs 2^40 steps for a name of 40 letters.
So only those are followed whose cost is bounded (`cheap`); for others the answer is None, "cannot tell".

Source: AutoAWQ 0.2.9 (`exclude_layers_to_not_quantize`), GPTQModel 7.7.0 (`dynamic_get`), compressed-tensors 0.19.0
(`match_name`), transformers 5.17.0 (`should_convert_module`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Answer = bool | None
_MOST_REPEATS = 3
_LONGEST = 200


def left_out(kind: str, settings: dict[str, Any], layer: str) -> Answer:
    """Whether `quantization_config` leaves this linear layer out; None where that cannot be decided.

    >>> left_out("awq", {"modules_to_not_convert": ["mlp"]}, "model.layers.0.mlp.up_proj")
    True
    >>> said = {"config_groups": {"group_0": {"targets": ["Linear"]}}, "ignore": ["re:.*down_proj"]}
    >>> left_out("compressed-tensors", said, "model.layers.0.mlp.up_proj")
    False
    """
    return _RULES[kind](settings, layer)


def cheap(pattern: str) -> bool:
    """Whether matching a name takes at most its length cubed: few repeats, and none of a group.

    >>> cheap(r"model\\.layers\\.\\d+\\.mlp\\..*"), cheap("(a+)+$")
    (True, False)
    """
    repeats = len(re.findall(r"(?<!\\)[*+{]", pattern))
    grouped = re.search(r"\)[*+?{]|\(\?[^:]|\\[1-9]", pattern)
    return len(pattern) <= _LONGEST and repeats <= _MOST_REPEATS and not grouped


def matches(pattern: str, name: str) -> Answer:
    """Whether a regular expression matches a name from its beginning; None for one that is not followed."""
    if not cheap(pattern):
        return None
    try:
        return re.match(pattern, name) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def _any(answers: Iterable[Answer]) -> Answer:
    """True if one is, False if all are, else None."""
    undecided = False
    for answer in answers:
        if answer:
            return True
        undecided |= answer is None
    return None if undecided else False


def _texts(settings: dict[str, Any], key: str) -> list[str] | None:
    """A list of names; an absent one is empty; None where it is something else."""
    value = settings.get(key) or []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _awq(settings: dict[str, Any], layer: str) -> Answer:
    names = _texts(settings, "modules_to_not_convert")
    return None if names is None else any(name in layer for name in names)


def _gptq(settings: dict[str, Any], layer: str) -> Answer:
    rules = settings.get("dynamic") or {}
    if not isinstance(rules, dict) or settings.get("modules_in_block_to_quantize"):
        return None
    return _any(matches(rule.removeprefix("-:"), layer) for rule in rules if rule.startswith("-:"))


def _compressed_tensors(settings: dict[str, Any], layer: str) -> Answer:
    groups = settings.get("config_groups")
    ignored = _texts(settings, "ignore")
    if not isinstance(groups, dict) or ignored is None:
        return None
    targets = [_texts(group, "targets") if isinstance(group, dict) else None for group in groups.values()]
    if any(names is None for names in targets):
        return None
    aimed = _any(name == "Linear" or _named(name, layer) for names in targets for name in names or [])
    skipped = _any(_named(name, layer) for name in ignored)
    return _any([skipped, None if aimed is None else not aimed])


def _named(pattern: str, layer: str) -> Answer:
    if pattern.startswith("re:"):
        return matches(pattern.removeprefix("re:"), layer)
    return pattern == layer


def _bitsandbytes(settings: dict[str, Any], layer: str) -> Answer:
    names = _texts(settings, "llm_int8_skip_modules")
    return None if names is None else _any(layer.endswith(name) or matches(name, layer) for name in names)


_RULES: dict[str, Callable[[dict[str, Any], str], Answer]] = {
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
}
