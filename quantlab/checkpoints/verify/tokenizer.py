"""The tokenizer and the chat template: do all tokens have a row in the embedding, and can the template be read?

A tokenizer of another model works without a word until it gives an id that has no row: then a GPU reports an illegal
memory access. One that gives the wrong ids inside the range makes noise, and no check of shapes sees it; that is what
the manifest's hash is for.

    tokenizer.json          model.vocab (a table, or Unigram's list of pairs) and added_tokens: id -> token
    config.json, generation_config.json       bos_token_id, eos_token_id (one or several), pad_token_id
    tokenizer_config.json   chat_template: a text, or a list of {"name", "template"}; or chat_template.jinja

Templates are parsed, never run: a template is a program. Source: transformers 5.17.0, `utils/chat_template_utils.py`
(jinja2's sandbox with loop controls and a `generation` block), `convert_slow_tokenizer.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantlab.checkpoints.verify.headers import Model, as_text, small_json
from quantlab.checkpoints.verify.result import Findings
from quantlab.checkpoints.verify.settings import embedding, whole
from quantlab.errors import QuantlabError
from quantlab.models.folder import TOKENIZERS

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_FEW = 0.5  # of the rows with a token: below, the tokenizer is likely that of another model
LONGEST_TEMPLATE = 2**20


def check_tokenizer(model: Model, findings: Findings) -> None:
    """Tokenizer, special ids and chat template of a folder."""
    entry = embedding(model.entries)
    rows = entry.shape[0] if entry is not None else whole(model.config, "vocab_size")
    if not any(all(name in model.names for name in files) for files in TOKENIZERS):
        what = f"{model.folder} holds no tokenizer; copy tokenizer.json of the same model into it"
        findings.fault("tokenizer", what)
    tokens = _tokens(model.folder / "tokenizer.json", findings) if "tokenizer.json" in model.names else None
    if tokens is not None and rows is not None:
        check_rows(tokens, rows, "tokenizer.json", findings)
    elif tokens is None:
        findings.unsure("tokenizer", "there is no readable tokenizer.json, so the ids of tokens were not compared")
    for name in ("config.json", "generation_config.json"):
        if name in model.names and rows is not None:
            _special(model.folder / name, rows, findings)
    _templates(model, findings)


def check_rows(tokens: Mapping[int, str], rows: int, where: str, findings: Findings) -> None:
    """tokens: id -> token, against the rows of the embedding."""
    top = max(tokens, default=-1)
    if top >= rows:
        beyond = sum(1 for i in tokens if i >= rows)
        what = f"{where} gives {as_text(tokens[top])} the id {top:,}, the embedding has {rows:,} rows"
        more = f" ({beyond:,} tokens are beyond it)" if beyond > 1 else ""
        findings.fault("tokenizer", f"{what}{more}; copy the tokenizer of this model")
    elif len(tokens) < _FEW * rows:
        what = f"{where} has tokens for {len(tokens):,} of {rows:,} rows; it may be that of another model"
        findings.unsure("tokenizer", what)
    else:
        findings.well("tokenizer", f"{len(tokens):,} tokens, each with a row among {rows:,}")


def check_template(template: str, where: str, findings: Findings) -> None:
    """Whether jinja2 can parse a chat template; it is not run."""
    if len(template) > LONGEST_TEMPLATE:
        findings.fault("template", f"the chat template of {where} has {len(template):,} characters; get it again")
        return
    problem = _parse(template)
    if problem:
        what = f"the chat template of {where} cannot be read ({problem}); copy that of the model"
        findings.fault("template", what)
    else:
        findings.well("template", "the chat template can be read")


def _parse(template: str) -> str | None:
    """What is wrong with a template, or None."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, by which transformers marks what the model said."""

        tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    try:
        environment.parse(template)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return f"{error.message or type(error).__name__}{f', line {line}' if line else ''}"
    except (RecursionError, ValueError, OverflowError, MemoryError) as error:
        return f"it is too deep or too long: {type(error).__name__}"
    return None


def _tokens(path: Path, findings: Findings) -> dict[int, str] | None:
    """id -> token; None where the file makes no sense, which is told."""
    try:
        content = small_json(path)
        return dict(_pairs(path, content))
    except QuantlabError as error:
        findings.fault("tokenizer", str(error))
    return None


def _pairs(path: Path, content: dict[str, Any]) -> Iterator[tuple[int, str]]:
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        pairs = list(vocabulary.items())
    elif isinstance(vocabulary, list) and all(isinstance(item, list) and item for item in vocabulary):
        pairs = [(item[0], i) for i, item in enumerate(vocabulary)]
    else:
        raise QuantlabError(f"{path} has no vocabulary; copy the tokenizer of this model")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise QuantlabError(f"{path} has added_tokens that make no sense; copy the tokenizer of this model")
    pairs += [(token.get("content"), token.get("id")) for token in added]
    seen: dict[int, str] = {}
    for token, i in pairs:
        if type(i) is not int or i < 0 or not isinstance(token, str):
            raise QuantlabError(f"{path} gives {as_text(token)} the id {as_text(i)}; copy the tokenizer of this model")
        if seen.setdefault(i, token) != token:
            both = f"{as_text(seen[i])} and {as_text(token)}"
            raise QuantlabError(f"{path} gives {both} the same id {i}; copy the tokenizer of this model")
        yield i, token


def _special(path: Path, rows: int, findings: Findings) -> None:
    """Special ids are tokens of the model."""
    try:
        content = small_json(path)
    except QuantlabError as error:
        if path.name != "config.json":
            findings.fault("tokenizer", str(error))
        return
    for key in _SPECIAL:
        value = content.get(key)
        for i in value if isinstance(value, list) else [value]:
            # -1 and null both say that there is none
            if i is not None and (type(i) is not int or i < -1 or i >= rows):
                what = f"{path} has {key} {as_text(i)}, which is no token of a vocabulary of {rows:,}"
                findings.fault("tokenizer", f"{what}; copy the file of this model")


def _templates(model: Model, findings: Findings) -> None:
    found = False
    for name in sorted(model.names & {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"}):
        path = model.folder / name
        try:
            templates = _in_file(path)
        except QuantlabError as error:
            findings.fault("template" if name.startswith("chat") else "tokenizer", str(error))
            continue
        for template in templates:
            check_template(template, str(path), findings)
            found = True
    if not found and not findings.failed("template"):
        findings.unsure("template", "there is no chat template; a server cannot answer a chat, only go on with a text")


def _in_file(path: Path) -> list[str]:
    if path.suffix == ".jinja":
        if not path.is_file() or path.stat().st_size > LONGEST_TEMPLATE:
            raise QuantlabError(f"{path} is no template that is {LONGEST_TEMPLATE:,} bytes long at most; get it again")
        try:
            return [path.read_text(encoding="utf-8")]
        except (OSError, ValueError) as error:
            raise QuantlabError(f"{path} is no text file; get it again") from error
    template = small_json(path).get("chat_template")
    if template is None or isinstance(template, str):
        return [template] if template else []
    if isinstance(template, list) and all(
        isinstance(item, dict) and isinstance(item.get("template"), str) for item in template
    ):
        return [item["template"] for item in template]
    raise QuantlabError(f"{path} has a chat_template that is no text; copy that of the model")
