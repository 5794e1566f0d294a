"""Documents of artifacts are data of a schema: JSON, YAML and tensors are checked whole, or refused by file and key."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import Shaped
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import require_plain

__all__ = ["checked", "open_tensors", "parsed_json", "read_as", "read_json", "read_options", "read_tensors"]

LARGEST = 2**26
"""Bytes of a document; a list of a million pictures is larger, and is none of ours."""
DEEPEST = 32
FAULTS = {
    **dict.fromkeys(("missing", "missing_argument"), "is missing"),
    **dict.fromkeys(("unexpected_keyword_argument", "extra_forbidden"), "unknown key"),
}
"""Pydantic's types of errors in our words."""


def read_as(kind: Any, file: Path) -> Any:
    """Return the value of this type that a JSON file holds.

    Raises:
        UserError: as `read_json` and `checked`.
    """
    return checked(kind, read_json(file), str(file))


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: when it is no plain file, too large, or as `parsed_json`.
    """
    return parsed_json(_text(file), str(file))


def parsed_json(text: str, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        UserError: when it is no JSON, has a key twice, a number that is not finite, or over 32 levels.
    """
    try:
        found = json.loads(text, object_pairs_hook=_pairs, parse_float=_finite, parse_constant=_finite)
        _require_shallow(found)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} must be JSON, found: {_line(error)}") from error
    return found


def checked(kind: Any, values: Any, where: str) -> Any:
    """Return values as this type: dataclasses without unknown or missing keys, nothing converted.

    Raises:
        UserError: for the first key that does not fit.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the document"
        reason = FAULTS.get(first["type"]) or f"{first['msg'].lower()}, found {_short(first['input'])}"
        raise UserError(f"{where}: {key}: {reason}") from error


def read_options(file: Path) -> dict[str, Any]:
    """Return the options that came with an artifact; they were written resolved, so references are refused.

    Raises:
        UserError: when they are no mapping, have a key twice, or refer to other options, variables or nodes.
    """
    text = _text(file)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _require_plain_nodes(node)
        values = None if node is None else loader.construct_document(node)
        _require_shallow(values)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} must be the options of an artifact, found: {_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{file} must be the options of an artifact, found {_short(values)}")
    return values


def read_tensors(file: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Return the tensors of a safetensors file of ours.

    Raises:
        UserError: as `open_tensors`.
    """
    opened = open_tensors(file)
    return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping


def open_tensors(file: Path) -> Any:
    """Return a handle of safetensors on a file of ours, of which only the header is read.

    Raises:
        UserError: when it is no plain file or damaged, or says something in its header, which ours do not.
    """
    require_plain(file, "the tensors")
    try:
        opened = safe_open(file, "pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {_line(error)}; make it again") from error
    for key, value in (opened.metadata() or {}).items():
        raise UserError(f"{file}: __metadata__.{key}: unknown key, found {_short(value)}; make it again")
    return opened


def _text(file: Path) -> str:
    require_plain(file, "the document")
    if (size := file.stat().st_size) > LARGEST:
        raise UserError(f"{file} must have at most {LARGEST:,} bytes, found {size:,}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} must be text in UTF-8, found: {_line(error)}") from error


def _pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {_short(key)} twice")
        made[key] = value
    return made


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text}, which is not finite")
    return value


def _require_shallow(found: Any) -> None:
    """Refuse deep values, and texts that no file or terminal can show; without recursion."""
    level = [found]
    for _ in range(DEEPEST):
        for text in level:
            if isinstance(text, str):
                text.encode()  # UnicodeEncodeError, a ValueError, for half a character
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} levels")


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _require_plain_nodes(top: yaml.Node | None) -> None:
    """Refuse keys that are there twice, aliases, which a few lines can make endless, and references."""
    seen, waiting = set[int](), [top] if top is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            raise ValueError(f"an alias in line {node.start_mark.line + 1}")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _pairs((key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and "${" in node.value:
            raise ValueError(f"the reference {_short(node.value)} in line {node.start_mark.line + 1}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"more than {DEEPEST} levels"
    return " ".join(str(error).split()) or type(error).__name__
