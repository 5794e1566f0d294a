"""Where a base is, whatever its form: a folder, a model on the hub, or a single file that is turned into a folder."""

import hashlib
from pathlib import Path

from quantbooth.artifacts.disk import whole_folder
from quantbooth.diffusion.single_file import convert
from quantbooth.diffusion.sources import source_folder
from quantbooth.errors import UserError

__all__ = ["find_base"]

SINGLE = ".safetensors"


def find_base(path: str, revision: str | None = None, config: str | None = None, converted: str = "bases") -> Path:
    """The diffusers folder of a base; a single file is converted once and found again until it changes.

    Args:
        path: a folder, a safetensors file, or "owner/name" on the model hub.
        revision: the commit on the hub.
        config: of a single file: a folder or model whose configuration files say the file's architecture.
        converted: where folders are made of single files.

    Raises:
        UserError: when there is nothing there, it is something else, or the configuration is missing.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() != SINGLE or not file.is_file():
        return source_folder(path, revision)
    if config is None:
        raise UserError(
            f"{file} does not tell its architecture: base.config=DIR names a diffusers folder of the same one, whose "
            "configuration files are read and whose weights are not"
        )
    architecture = source_folder(config, revision)
    destination = Path(converted).expanduser() / f"{file.stem}-{_digits(file, architecture)}"
    if not destination.is_dir():
        with whole_folder(destination, "paths.outputs") as draft:
            convert(file, architecture, draft)
    return destination


def _digits(file: Path, config: Path) -> str:
    """Other digits for another file, a changed one, or another configuration."""
    state = file.stat()
    told = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {config.resolve()}"
    return hashlib.sha256(told.encode()).hexdigest()[:12]
