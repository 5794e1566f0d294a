"""Validation of a whole configuration against the schema, before any work: all wrong options at once."""

import contextlib
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from quantbooth.kinds import MAPPING, Field, shown
from quantbooth.runtime.errors import UserError, WrongOptions
from quantbooth.runtime.places import require_named
from quantbooth.runtime.renamed import RENAMED, in_present_form
from quantbooth.schema import ANY, COMMANDS, FIELDS, OPEN

__all__ = ["given_values", "mistakes", "require_filled", "require_kept", "require_valid", "require_valid_sweep"]

OURS = "quantbooth"


def require_valid(cfg: DictConfig, config_name: str = "") -> None:
    """Refuse unknown and renamed options, and values that the schema does not allow.

    An option without a value (???) is not refused here: some commands do without.

    Args:
        cfg: the composed configuration.
        config_name: the file of conf/ that it is composed from.

    Raises:
        WrongOptions: with a line for each.
        UserError: for an empty variable of the environment.
    """
    require_named(cfg)
    found = mistakes(in_present_form(given_values(cfg)), COMMANDS.get(config_name, FIELDS))
    own = [line for option, line in found.items() if not _copied(cfg, option)]
    if found:
        raise WrongOptions(own or list(found.values()))


def require_kept(words: Sequence[str], config_name: str = "") -> None:
    """Refuse words that remove an option (~tuner.steps), which Hydra allows: commands read every declared option.

    Raises:
        UserError: for the first one.
    """
    fields = COMMANDS.get(config_name, FIELDS)
    for word in words:
        if removal := re.match(r"~([\w.]+)", word):
            group, _, key = removal[1].rpartition(".")
            if key in fields.get(group, {}) or key.startswith("_"):  # _target_: what a node makes
                raise UserError(f"option '{removal[1]}' cannot be removed, got '{word}'; write {removal[1]}=VALUE")


def require_filled(words: Sequence[str]) -> None:
    """Refuse words with an empty mapping (base.zones={}), which Hydra merges: all that was in it would stay.

    Raises:
        UserError: for the first one.
    """
    parser = OverridesParser.create()
    for word in words:
        with contextlib.suppress(HydraException):  # Hydra says what it cannot read
            given = parser.parse_override(word)
            option = given.get_key_element().lstrip("+")
            texts = given.sweep_string_iterator() if given.is_sweep_override() else [given.get_value_element_as_str()]
            values = [parser.parse_override(f"{option}={text}").value() for text in texts]
            if not given.is_hydra_override() and any(map(_holds_nothing, values)):
                raise UserError(
                    f"{word} would change nothing, since mappings are merged; write {option}.KEY=VALUE to set what is "
                    f"in it, ~{option}.KEY to take out what may be missing, or leave it out"
                )


def _holds_nothing(value: object) -> bool:
    """Return whether a value is an empty mapping, or a mapping that holds one."""
    return isinstance(value, dict) and (not value or any(map(_holds_nothing, value.values())))


def require_valid_sweep(words: Sequence[str], config_name: str = "") -> None:
    """Refuse values of a sweep that the schema does not allow, before its first job.

    Raises:
        WrongOptions: with a line for each.
    """
    fields, parser = COMMANDS.get(config_name, FIELDS), OverridesParser.create()
    lines = []
    for word in words if {"-m", "--multirun"} & set(words) else ():
        with contextlib.suppress(HydraException):  # Hydra says what it cannot read
            option, _, given = word.lstrip("+").partition("=")
            group, _, key = option.rpartition(".")
            field, override = fields.get(group, {}).get(key), parser.parse_override(f"{option}={given}")
            if field is None or option in fields or field.kind is MAPPING or not override.is_sweep_override():
                continue
            values = [parser.parse_override(f"{option}={text}").value() for text in override.sweep_string_iterator()]
            wrong = [value for value in values if not field.kind.holds(value) and "${" not in str(value)]
            lines += [f"{option} must be {field.kind.allowed}, got {shown(value)}" for value in wrong]
    if lines:
        raise WrongOptions(lines)


def mistakes(settings: Mapping[Any, Any], tables: Mapping[str, Mapping[str, Field]] = FIELDS) -> dict[str, str]:
    """Return option -> what is wrong with it, in the order of the configuration."""
    return dict(_mistakes(settings, tables, "", ""))


def _mistakes(
    node: Mapping[Any, Any], tables: Mapping[str, Mapping[str, Field]], group: str, prefix: str
) -> Iterator[tuple[str, str]]:
    fields = tables[group]
    for key, value in node.items():
        option = f"{prefix}{key}"
        field = fields.get(key) or fields.get(ANY)
        if not isinstance(key, str):
            yield option, f"{prefix.removesuffix('.')} must have text as keys, got {shown(key)}"
        elif tables is FIELDS and (former := _former(option, value)):
            yield from ((old, f"option '{old}' has another name: {RENAMED[old]}") for old in former)
        elif key.startswith("_"):
            continue
        elif field is None and group in OPEN:
            if isinstance(value, float) and not math.isfinite(value):
                yield option, f"{option} must be finite, got {value}"
        elif field is None:
            near = difflib.get_close_matches(key, fields, 1)
            meant = f" (did you mean '{prefix}{near[0]}'?)" if near else ""
            yield option, f"unknown option '{option}'{meant}; --cfg job shows all options"
        elif not field.kind.holds(value):
            yield option, f"{option} must be {field.kind.allowed}, got {shown(value)}"
        elif isinstance(value, Mapping):
            inner = f"{group}.{key if key in fields else ANY}".removeprefix(".")
            if inner in tables and (inner in OPEN or _is_ours(value)):
                yield from _mistakes(value, tables, inner, f"{option}.")


def _former(option: str, value: object) -> list[str]:
    """Return the renamed options at an option, which may be a whole group of them."""
    if option in RENAMED:
        return [option]
    return [f"{option}.{key}" for key in value if f"{option}.{key}" in RENAMED] if isinstance(value, Mapping) else []


def _is_ours(node: Mapping[Any, Any]) -> bool:
    """Return whether the schema knows the arguments of a node's class."""
    return str(node.get("_target_", OURS)).startswith(OURS)


def given_values(node: Any) -> Any:
    """Return a config as plain values with interpolations resolved, without the options that have no value yet."""
    if isinstance(node, ListConfig):
        return [given_values(node[place]) for place in range(len(node))]
    if not isinstance(node, DictConfig):
        return node
    found: dict[Any, Any] = {}
    for key in node:
        with contextlib.suppress(MissingMandatoryValue, InterpolationToMissingValueError):
            found[key] = given_values(node[key])
    return found


def _copied(cfg: DictConfig, option: str) -> bool:
    """Return whether an option, or a group around it, repeats another by an interpolation."""
    node: Any = cfg
    for key in option.split("."):
        if key not in node:  # one with a dot in its name, or that is no text
            return False
        if OmegaConf.is_interpolation(node, key):
            return True
        node = node[key]
    return False
