"""Where networks come from: a folder of the person's own, or a pinned revision from the model hub."""

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
from quantbooth.errors import UserError

__all__ = ["network_folder", "source_folder"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
PARTS = (*folders_of_networks(), "scheduler")
WANTED = [
    "model_index.json",
    *(f"{part}/{file}" for part in PARTS for file in ("*.json", "*.safetensors")),
    *("tokenizer/*", "tokenizer_2/*", "tokenizer_3/*"),
]
ALONE = ["*.json", "*.txt", "*.safetensors"]
"""What makes one network of transformers: numbers, tokenizer, weights."""
UNWANTED = ["*.fp16.*", "*.bf16.*", "*non_ema*", "*.bin", "*.ckpt", "*.py"]
"""Other precisions of the same weights, and everything that could run code."""
PICKLES = (".ckpt", ".bin", ".pt", ".pth")


def source_folder(path: str, revision: str | None = None) -> Path:
    """The diffusers folder of a base.

    Args:
        path: a folder, or "owner/name" on the model hub.
        revision: the commit on the hub, 40 digits, so that a run means the same tomorrow; not for a folder.

    Raises:
        UserError: when there is no such folder or model, the hub cannot be reached, or no commit is pinned.
    """
    return _folder(path, revision, "base", "diffusers", WANTED)


def network_folder(path: str, revision: str | None, option: str) -> Path:
    """The folder of one network, as transformers' save_pretrained wrote it; `option` is where it is chosen.

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
    """The snapshot in the hub's own cache; only data is fetched, nothing that could run."""
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=UNWANTED)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(
            f"the hub has no {name} at revision {revision[:12]} for you: {_first_line(error)}; check {option}.path and "
            f"{option}.revision, or log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot fetch {name} from the hub: {_first_line(error)}; {option}.path=DIR takes a folder that is there "
            "already"
        ) from error
    return Path(found)


def _not_a_folder(file: Path, option: str, library: str) -> str:
    if file.suffix.lower() in PICKLES:
        return f"{file} is a pickle, which may run code when it is read; save it as a {library} folder in safetensors"
    if library == "diffusers":
        return f"{file} is a file of another kind; a base is a diffusers folder or a .safetensors file with base.config"
    return f"{option}.path must be a {library} folder, {file} is a file; save_pretrained makes a folder of it"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")
