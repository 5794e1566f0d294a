"""quantbooth-data: download DreamBooth's public photos, or check a folder of them.

quantbooth-data dreambooth                    into paths.dreambooth, where subject=dog and the 29 others look
quantbooth-data check folder=DIR              a folder of them from any source
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from quantbooth.data.dreambooth import NAMES, Source, check_photos, fetch, present, read_listing, verify
from quantbooth.runtime.config import plain
from quantbooth.runtime.errors import UserError

__all__ = ["job"]


def job(cfg: DictConfig) -> None:
    """Do the action and print what was found.

    Raises:
        UserError: for another action, or a source where nothing is downloaded; when a file cannot be downloaded or
            read, or differs from the published one.
    """
    settings = plain(cfg)
    action, folder = settings["action"], Path(settings["folder"]).expanduser()
    if action not in ("dreambooth", "check"):
        said = "" if action is None else f", got {action!r}"
        raise UserError(
            f"action must be dreambooth or check{said}: quantbooth-data dreambooth downloads photos, "
            "quantbooth-data check reads them"
        )
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if action == "check" and (asked := [word for word in typed if word.lstrip("+").startswith("source.")]):
        raise UserError(f"{asked[0]} has no effect on quantbooth-data check, which reads {folder}; leave it out")
    if action == "dreambooth":
        fetched = fetch(Source(**settings["source"]), folder)
        print(f"downloaded {fetched} files, all as published")  # noqa: T201  # what the command is run for
    print(describe_folder(folder))  # noqa: T201


def describe_folder(folder: Path) -> str:
    """Return the contents of a folder, in a sentence.

    Raises:
        UserError: for the first fault.
    """
    found = present(folder)
    photos = sum(check_photos(folder / name) for name in found)
    listing = read_listing(folder)
    verify(folder, listing)
    readable = "readable, in the published number; not compared with the published files"
    compared = "every file as published" if listing else readable
    missing = [name for name in NAMES if name not in found]
    without = f"; without {', '.join(missing)}" if missing else ""
    return f"{folder}: {len(found)} of {len(NAMES)} subjects, {photos} photos, {compared}{without}"
