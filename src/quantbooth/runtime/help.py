"""The text of `--help`: the command's docstring, the config groups with their choices, and the most used options.

Everything is read from conf/: a group is a folder, a choice a file in it, and a comment documents its option.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from quantbooth.runtime.config import choices

__all__ = ["Group", "Option", "fitted", "help_text", "options_of", "read_groups", "with_inherited"]

WIDTH = 110
"""The most characters of a line; fewer on a narrower terminal."""
MOST_USED = {
    "tuner.steps": "optimizer steps",
    "subject.path": "a folder of 3 to 6 photos, with subject=folder",
    "subject.class_word": "what the photos show: dog, mug, backpack, with subject=folder",
    "base.path": "a diffusers folder, a safetensors file, or owner/name on the model hub; not with base=toy",
    "paths.store": "the folder of finished artifacts, which every later run reuses",
}
FLAGS = {
    "-m": "run every combination of values, such as -m seed=0,1",
    "--cfg job": "print the whole configuration and run nothing; --cfg job --resolve fills in references",
    "--version": "print the version",
    "--hydra-help": "print Hydra's own flags",
}


@dataclass(frozen=True)
class Group:
    """A config group, of which one file of conf/NAME/ is used.

    Attributes:
        name: of the folder and the option.
        default: the default file; None for an optional group.
        choices: all files.
    """

    name: str
    default: str | None
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Option:
    """An option of a config file: its dotted key in the file, its value as written, and its comment."""

    key: str
    value: str
    meaning: str


def help_text(doc: str, conf: Path, config_name: str) -> str:
    """Return the help of a command.

    Args:
        doc: the docstring of its module: "NAME: what it does", then examples.
        conf: the folder of config groups.
        config_name: the config file that the command reads.
    """
    verb = doc.partition(":")[0].strip().rpartition("-")[2]
    groups = read_groups(conf, config_name)
    width, parts = _width(), [fitted(doc)]
    if groups:
        parts.append("Groups, written GROUP=CHOICE (the default first):\n" + _columns(map(_choices, groups), width))
    if options := _most_used(conf, _own(conf, config_name, verb), groups):
        parts.append("Options, written KEY=VALUE, lists KEY=[a,b]:\n" + _columns(map(_described, options), width))
    return "\n\n".join([*parts, "Flags, before the options:\n" + _columns(FLAGS.items(), width)]) + "\n"


def fitted(doc: str) -> str:
    """Return the docstring of a command's module in lines that fit the terminal."""
    return "\n\n".join(_block(block, _width()) for block in doc.strip().split("\n\n"))


def read_groups(conf: Path, config_name: str) -> list[Group]:
    """Return the groups that a config file chooses from, those of the files it inherits from first."""
    groups: dict[str, Group] = {}
    for entry in (yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8")) or {}).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            groups |= {group.name: group for group in read_groups(conf, entry)}
        elif isinstance(entry, dict):
            ((key, default),) = entry.items()
            name = key.removeprefix("override ")
            if (conf / name).is_dir():
                groups[name] = Group(name, default, tuple(choices(conf / name)))
    return list(groups.values())


def options_of(file: Path) -> list[Option]:
    """Return the options written in one config file, in order, without Hydra's sections and code paths."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return list(_leaves(node, text.splitlines(), "")) if isinstance(node, yaml.MappingNode) else []


def with_inherited(file: Path) -> list[Option]:
    """Return the options of a choice of a group, inherited ones first."""
    found: dict[str, Option] = {}
    for entry in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []):
        name = str(entry).partition("@")[0]  # NAME in the same folder, /GROUP/NAME from the top
        folders = file.parents if name.startswith("/") else [file.parent]
        for parent in [folder / f"{name.lstrip('/')}.yaml" for folder in folders]:
            if isinstance(entry, str) and parent.is_file():
                found |= {option.key: option for option in with_inherited(parent)}
                break
    for option in options_of(file):
        meaning = option.meaning or (found[option.key].meaning if option.key in found else "")
        found[option.key] = Option(option.key, option.value, meaning)
    return list(found.values())


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def _leaves(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Option]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in ("defaults", "hydra") or key.value.startswith("_"):
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _leaves(value, lines, f"{name}.")
            continue
        line = lines[key.start_mark.line]
        written = line[key.end_mark.column + 1 :]
        comment = re.search(r"(?:^|\s)#\s*(.*)$", written)
        shown = (written[: comment.start()] if comment else written).strip()
        multiline = value.end_mark.line > key.start_mark.line + 1
        yield Option(name, "..." if multiline or shown in ("", ">-", "|") else shown, comment[1] if comment else "")


def _own(conf: Path, config_name: str, verb: str) -> list[Option]:
    """Return the options in the command's own file: those at the top, and the section named like the command."""
    options = options_of(conf / f"{config_name}.yaml")
    return [option for option in options if "." not in option.key or option.key.split(".")[0] in (verb, config_name)]


def _most_used(conf: Path, own: list[Option], groups: list[Group]) -> list[Option]:
    """Return the command's own options, then MOST_USED; a value that a choice requires is shown as required."""
    shown = {option.key: option for option in own}
    for key, meaning in MOST_USED.items():
        group, _, name = key.partition(".")
        files = [conf / g.name / f"{choice}.yaml" for g in groups if g.name == group for choice in g.choices]
        values = [option.value for file in files for option in with_inherited(file) if option.key == name]
        values += [shown[key].value] if key in shown else []
        if values:
            shown[key] = Option(key, "???" if "???" in values else values[0], meaning)
    return list(shown.values())


def _choices(group: Group) -> tuple[str, str]:
    first = [group.default] if group.default else []
    return group.name, ", ".join([*first, *(choice for choice in group.choices if choice != group.default)])


def _described(option: Option) -> tuple[str, str]:
    value = "no default" if option.value == "???" else f"default {option.value}"
    return option.key, f"{option.meaning} ({value})" if option.meaning else value


def _block(block: str, width: int) -> str:
    """Return a block of a docstring in lines that fit: text is filled, a long example is after its comment."""
    lines: list[str] = []
    if not re.search(r"(?m)^quantbooth(-\w+)? ", block):
        return textwrap.fill(" ".join(block.split()), width, break_on_hyphens=False)
    for line in block.splitlines():
        command, gap, comment = line.partition("  ")
        lines += [line] if len(line) <= width or not gap else [f"# {comment.strip(' #')}", command]
    return "\n".join(lines)


def _columns(rows: Iterable[tuple[str, str]], width: int) -> str:
    """Return two columns, the second wrapped."""
    pairs = list(rows)
    first = max(len(name) for name, _ in pairs) + 4
    return "\n".join(
        textwrap.fill(
            text, width, initial_indent=f"  {name}".ljust(first), subsequent_indent=" " * first, break_on_hyphens=False
        )
        for name, text in pairs
    )
