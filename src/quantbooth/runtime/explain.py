"""User errors as one line: messages of Hydra, OmegaConf and the system, rewritten for the command line."""

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Iterator

import hydra
import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from quantbooth.runtime.config import MISTAKES, choices, conf_dir
from quantbooth.runtime.errors import UserError, WrongOptions
from quantbooth.runtime.help import with_inherited
from quantbooth.runtime.hydra_versions import BASE
from quantbooth.runtime.limits import limit
from quantbooth.runtime.renamed import RENAMED
from quantbooth.schema import COMMANDS, FIELDS

__all__ = ["explain", "is_mistake"]

NOISE = ("See http", "object_type", "reference_type", "full_key", "Config search path", "provider=")
"""Prefixes of message lines about Hydra and OmegaConf internals."""
EXTRAS = {
    **{"hydra/launcher/joblib": "joblib", "hydra/launcher/ray": "ray", "hydra/sweeper/optuna": "optuna"},
    **{"hydra/launcher/submitit_local": "submitit", "hydra/launcher/submitit_slurm": "submitit"},
}
"""Choices of plugins of Hydra -> the extra that brings them."""
GOT = {"NoneType": "null", "int": "a number", "float": "a number", "bool": "true or false", "dict": "a mapping"}
"""Python's names of types in words of a command line."""


def is_mistake(error: BaseException) -> bool:
    """Return True for a user error, False for a bug, which keeps its traceback."""
    if isinstance(error, InstantiationException):
        return error.__cause__ is None or isinstance(error.__cause__, MISTAKES)
    mistakes = (UserError, HydraException, OmegaConfBaseException, OSError, yaml.YAMLError)
    return isinstance(error, mistakes) or _is_of_wandb(error) or limit(error) is not None


def explain(error: BaseException, config_name: str | None = None, cfg: DictConfig | None = None) -> str:
    """Return one line: what was found, and what to do; of wrong options a line each.

    `config_name` is the config, in which the nearest valid key is searched; `cfg` is the composed one, if it could be.
    """
    if not isinstance(error, UserError) and (line := limit(error, cfg, "paths.outputs" if config_name else None)):
        return line
    match error:
        case WrongOptions():
            return str(error)
        case UserError():
            return flat(str(error))
        case InstantiationException(__cause__=UserError() as cause):
            return flat(str(cause))
        case MissingConfigException(missing_cfg_file=str(missing), options=[*options]):
            group, _, name = missing.rpartition("/")
            offered = [option for option in options if not option.startswith("_")]
            if extra := EXTRAS.get(missing):
                return f"{group}={name} is of an extra that is not installed: pip install 'quantbooth[{extra}]'"
            return f"'{group}' has no option '{name}'{_meant(name, offered)}; choose from {', '.join(offered)}"
        case OverrideParseException():
            reason = flat(error.message.replace(f"Error parsing override '{error.override}'", ""))
            reason = re.sub(r"^Error when parsing index: .* out of \[.*?\]\. ", "", reason)  # Hydra 1.4
            return (
                f"cannot read '{error.override}' ({reason}); options are written key=value, lists key=[a,b], other "
                "characters in double quotes inside the shell's: 'key=[\"a (b)\",c]'"
            )
        case MissingMandatoryValue():
            return f"option '{error.full_key}' has no value; set it with {error.full_key}=..."
        case InterpolationResolutionError(full_key=str(option)) if option:
            return f"{flat(str(error))}, from {option}"
        case OSError(strerror=str(reason), filename=str(path)):
            return f"{reason}: {path}"
        case _ if _is_of_wandb(error):
            return f"W&B: {flat(str(error))}; set WANDB_MODE=offline, or choose logger=csv"
        case _:
            return _by_text(str(error), config_name, getattr(error.__cause__, "full_key", None))


def _is_of_wandb(error: BaseException) -> bool:
    """Return whether an error is W&B's own, without importing it."""
    return any(kind.__module__.startswith("wandb.errors") for kind in type(error).__mro__)


def flat(text: str) -> str:
    """Join the lines of a message into one, without those about Hydra internals."""
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(NOISE))


def _by_text(text: str, config_name: str | None, key: str | None = None) -> str:
    """Explain an error by its text, because Hydra has one exception class for many errors.

    `key` is the unknown one where a group of them was given.
    """
    if overridden := re.match(r"Could not override '([^']+)'", text):
        unknown = key if key and key.startswith(f"{overridden[1]}.") else overridden[1]
        if now := RENAMED.get(unknown):
            return f"option '{unknown}' has another name: {now}"
        if config_name not in COMMANDS and (line := _of_trainer(unknown)):
            return line
        hint = _offered_by(unknown) or _meant(unknown, _known_keys(unknown, config_name))
        return f"unknown option '{unknown}'{hint}; --cfg job shows all options"
    if several := re.match(r"Ambiguous value for argument '([^']+)'", text):
        key, _, value = several[1].partition("=")
        lists = "" if (conf_dir() / key).is_dir() else f", or write {key}=[{value}] for one list"
        return f"'{several[1]}' names several values; add -m to run each{lists}"
    if text.startswith("Config group override must be a string"):
        kind = text.rpartition("Got ")[2].strip(". ")
        return f"a config group takes the name of a choice, got {GOT.get(kind, kind)}{_offers()}"
    return flat(text)


def _of_trainer(option: str) -> str:
    """Return a line about an option of Lightning's trainer that no config has; empty for another option."""
    group, _, key = option.partition(".")
    field = FIELDS["trainer"].get(key) if group == "trainer" else None
    if field is None:
        return ""
    if field.kind.allowed.startswith("left out"):
        return f"{option} must be {field.kind.allowed}"
    return f"option '{option}' is in no config of this choice; write it with a plus: +{option}=..."


def _offered_by(option: str) -> str:
    """Return a hint with the choices of a group that have this option, where the present choice does not."""
    group, _, key = option.partition(".")
    folder = conf_dir() / group
    if not key or not folder.is_dir():
        return ""
    options = {name: with_inherited(folder / f"{name}.yaml") for name in choices(folder)}
    found = [(option.value != "???", name) for name, each in options.items() for option in each if option.key == key]
    having = [f"{group}={name}" for _, name in sorted(found)]  # first those that wait for a value
    return f" of this choice; {' or '.join(having[:3])} has it" if having else ""


def _meant(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known key nearest to `word`: in its group, else with its last part, else anywhere."""
    keys = sorted(key for key in known if key != word)
    last_parts: dict[str, str] = {key.rpartition(".")[2]: key for key in reversed(keys)}
    last = word.rpartition(".")[2]
    same = [key for key in keys if key.rpartition(".")[2] == last]
    siblings = [key for key in keys if key.rpartition(".")[0] == word.rpartition(".")[0]] if "." in word else []
    near = difflib.get_close_matches(word, siblings, 1, 0.8)
    near = near or difflib.get_close_matches(word, same, 1, 0.0) or difflib.get_close_matches(word, keys, 1)
    near = near or [last_parts[part] for part in difflib.get_close_matches(last, last_parts, 1, 0.7)]
    return f" (did you mean '{near[0]}'?)" if near else ""


def _known_keys(unknown: str, config_name: str | None) -> set[str]:
    """Return all groups and keys that the command line could set instead of the unknown one."""
    keys = {path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*") if path.is_dir()}
    others = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", unknown))]
    for overrides in (others, []):
        with (
            contextlib.suppress(HydraException, OmegaConfBaseException, ValueError),
            hydra.initialize_config_dir(str(conf_dir()), **BASE),
        ):
            return keys | set(_dotted(OmegaConf.to_container(hydra.compose(config_name, overrides))))
    return keys


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")


def _offers() -> str:
    """Return the choices of all groups on the command line: Hydra does not say which group has the wrong value."""
    groups = [word.partition("=")[0] for word in sys.argv[1:] if "=" in word]
    folders = [conf_dir() / group for group in groups if (conf_dir() / group).is_dir()]
    return "".join(f"; '{each.name}' offers {', '.join(choices(each))}" for each in folders)
