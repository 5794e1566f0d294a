"""Sources of a base: a folder, a pinned revision on the Hugging Face Hub, or a single file converted to a folder."""

import hashlib
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from quantbooth.diffusion.families.registry import folders_of_networks
from quantbooth.diffusion.hub import from_cache_if_silent
from quantbooth.diffusion.single_file import convert
from quantbooth.diffusion.weights import first_line
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import atomic_folder, owning_folder

__all__ = ["config_folder", "find_base", "network_folder", "source_folder"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
PARTS = (*folders_of_networks(), "scheduler")
CONFIGS = [
    "model_index.json",
    *(f"{part}/*.json" for part in PARTS),
    *("tokenizer/*", "tokenizer_2/*", "tokenizer_3/*"),
]
"""The small files of a base, which are looked at before its weights are fetched."""
WANTED = [*CONFIGS, *(f"{part}/*.safetensors" for part in PARTS)]
ALONE = ["*.json", "*.txt", "*.safetensors"]
"""Files of one transformers network: configuration, tokenizer, weights."""
UNWANTED = ["*.fp16.*", "*.bf16.*", "*non_ema*", "*.bin", "*.ckpt", "*.py"]
"""Other precisions of the same weights, and everything that could run code."""
PICKLES = (".ckpt", ".bin", ".pt", ".pth")


def source_folder(path: str, revision: str | None = None) -> Path:
    """Return the diffusers folder of a base.

    Args:
        path: a folder, or "owner/name" on the hub.
        revision: the commit on the hub, 40 digits, so that runs are reproducible; not for a folder.

    Raises:
        UserError: when there is no such folder or model, the hub cannot be reached, or no commit is pinned.
    """
    return _folder(path, revision, "base", "diffusers", WANTED)


def network_folder(path: str, revision: str | None, option: str) -> Path:
    """Return the folder of one network, as transformers' save_pretrained writes it; `option` names it in messages.

    Raises:
        UserError: as `source_folder`.
    """
    return _folder(path, revision, option, "transformers", ALONE)


def _folder(path: str, revision: str | None, option: str, library: str, wanted: list[str]) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(_not_a_folder(folder, option, library))
    if not HUB_ID.fullmatch(path) or path.startswith((".", "~")):
        raise UserError(
            f"{option}.path must be a folder in {library} format or owner/name on the hub, found none at {folder}"
        )
    if revision is None or not COMMIT.fullmatch(str(revision)):
        raise UserError(
            f"there is no folder {path}; from the hub it needs {option}.revision=COMMIT, 40 digits that the model's "
            f"page shows under Files and versions, got {revision!r}"
        )
    return _from_hub(path, str(revision), option, wanted)


def _from_hub(name: str, revision: str, option: str, wanted: list[str]) -> Path:
    """Return the snapshot in the hub's cache; only data files are downloaded, no code."""
    silent = None
    try:
        with from_cache_if_silent() as silent:
            found = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=UNWANTED)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(
            f"the hub has no {name} at revision {revision[:12]} for you: {first_line(error)}; check {option}.path and "
            f"{option}.revision, or log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot fetch {name} from the hub: {silent or first_line(error)}; {option}.path=DIR takes a folder that "
            "is there already"
        ) from error
    return Path(found)


def _not_a_folder(file: Path, option: str, library: str) -> str:
    if file.suffix.lower() in PICKLES:
        return f"{file} is a pickle, which may run code when it is read; save it as a {library} folder in safetensors"
    if library == "diffusers":
        return f"{file} is a file of another kind; a base is a diffusers folder or a .safetensors file with base.config"
    return f"{option}.path must be a {library} folder, {file} is a file; save_pretrained makes a folder of it"


SINGLE = ".safetensors"


def config_folder(path: str, revision: str | None = None, config: str | None = None) -> Path:
    """Return the diffusers folder with a base's configuration files; from the hub come these alone, no weights.

    Args:
        path: a folder, a safetensors file, or "owner/name" on the hub.
        revision: the commit on the hub.
        config: for a single file: a folder or model whose configuration files give the file's architecture.

    Raises:
        UserError: when the path does not exist or is not a base, or the configuration is missing.
    """
    file = Path(path).expanduser()
    if not _is_single(file):
        if config is not None:
            raise UserError(f"base.config is for a {SINGLE} file, base.path={path} is none; leave base.config out")
        if revision is not None and file.is_dir():
            raise UserError(f"base.revision={revision} is of a model on the hub, {path} is a folder; leave it out")
        return _folder(path, revision, "base", "diffusers", CONFIGS)
    if config is None:
        raise UserError(
            f"{file} has no architecture: set base.config=DIR, a diffusers folder of the same one, whose "
            "configuration files are read and whose weights are not"
        )
    return _folder(config, revision, "base", "diffusers", CONFIGS)


def find_base(path: str, revision: str | None = None, config: str | None = None, converted: str = "bases") -> Path:
    """Return the diffusers folder of a base; a single file is converted once, and again when it changes.

    Args:
        path: as of `config_folder`.
        revision: as of `config_folder`.
        config: as of `config_folder`.
        converted: the folder for converted single files.

    Raises:
        UserError: as `config_folder`, and when the file is not of that architecture.
    """
    architecture, file = config_folder(path, revision, config), Path(path).expanduser()
    if not _is_single(file):
        return source_folder(path, revision)
    destination = Path(converted).expanduser() / f"{file.stem}-{_digits(file, architecture)}"
    if not destination.is_dir():
        with owning_folder(destination):
            if not destination.is_dir():
                with atomic_folder(destination, "paths.outputs") as draft:
                    convert(file, architecture, draft)
    return destination


def _is_single(file: Path) -> bool:
    return file.suffix.lower() == SINGLE and file.is_file()


def _digits(file: Path, config: Path) -> str:
    """Return a digest of the file's path, size and time of change, and of the configuration's path."""
    state = file.stat()
    text = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {config.resolve()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
