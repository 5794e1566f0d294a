"""Pages and pictures that are made from the repository when the site is built: commands, options, the demo's grid."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from quantbooth.runtime.cli import Command
from quantbooth.runtime.config import choices
from quantbooth.runtime.help import Option, options_of, with_inherited

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PICTURES = {
    "images/grid.png": "experiments/demo/grid.png",
    "images/tradeoff.svg": "experiments/first_answer/tradeoff.svg",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the site (an event of mkdocs)."""
    pages = {"reference/commands.md": commands_page(), "reference/options.md": options_page()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for name, source in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def commands_page() -> str:
    """Return one section for each command: what its --help prints."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    parts = ["# Commands", "What `--help` of each command prints. `python -m quantbooth` is the same as `quantbooth`."]
    for name, target in scripts.items():
        module, _, program = target.partition(":")
        made = getattr(import_module(module), program)
        if not isinstance(made, Command) and module == "quantbooth.programs":  # a former name
            continue
        text = made.help() if isinstance(made, Command) else f"{sys.modules[module].__doc__}\n"
        parts.append(f"## {name}\n\n```text\n{text}```")
    return "\n\n".join(parts)


def options_page() -> str:
    """Return a table of options for each config file, in the order of the folders of conf/."""
    parts = [
        "# Options",
        "Every option of every file in `conf/`, with its value there. An option of a group is written "
        "`GROUP.OPTION=VALUE`, for example `tuner.steps=400`. `${...}` refers to another option. "
        "`quantbooth --cfg job` prints the configuration that a command line gives.",
        "## All commands",
    ]
    for file in sorted(CONF.glob("*.yaml")):
        parts += section(file, f"### {file.stem}.yaml", "")
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "experiment"):
        parts.append(f"## {folder.name}")
        for first, *others in alike(folder):
            parts += section(first, f"### {folder.name}={first.stem}", f"{folder.name}.")
            if others:
                parts.append("With the same options: " + ", ".join(f"`{file.stem}`" for file in others) + ".")
    return "\n\n".join(parts)


def alike(folder: Path) -> list[list[Path]]:
    """Return the files of a group, those with the same options in one list, first one where the user sets a value."""
    found: dict[tuple[str, ...], list[Path]] = {}
    for file in (folder / f"{choice}.yaml" for choice in choices(folder)):
        found.setdefault(tuple(option.key for option in with_inherited(file)), []).append(file)
    return [sorted(files, key=lambda file: "???" not in file.read_text(encoding="utf-8")) for files in found.values()]


def section(file: Path, title: str, prefix: str) -> list[str]:
    """Return a title, the file's first comment, and a table of its options."""
    first = file.read_text(encoding="utf-8").splitlines()[0] if file.stat().st_size else ""
    about = [escaped(first.lstrip("# "))] if first.startswith("#") and "@package" not in first else []
    passed_on = f"${{{prefix}" if prefix else "nothing"  # an option of the group, handed to a constructor
    options = [o for o in (with_inherited(file) if prefix else options_of(file)) if not o.value.startswith(passed_on)]
    rows = [row(option, prefix) for option in options]
    return [title, *about, *(["| option | value | meaning |\n|---|---|---|\n" + "\n".join(rows)] if rows else [])]


def row(option: Option, prefix: str) -> str:
    """Return one line of a table."""
    return f"| `{prefix}{option.key}` | `{escaped(option.value)}` | {escaped(option.meaning)} |"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too."""
    return text.replace("|", "\\|").replace("<", "&lt;")
