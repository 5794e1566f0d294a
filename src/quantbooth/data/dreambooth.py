"""DreamBooth's 30 public subjects: their names, what a folder of them must hold, and one of them as a subject.

Source: Ruiz et al. 2023; github.com/google/dreambooth, CC-BY 4.0, photos in part under the Unsplash licence.
"""

from pathlib import Path
from typing import Any

from quantbooth.data.photos import photo_files, photo_subject
from quantbooth.data.pictures import read_photo
from quantbooth.data.subjects import Subject
from quantbooth.errors import UserError

__all__ = ["NAMES", "check_photos", "dreambooth_subject", "present"]

NAMES = (
    *("backpack", "backpack_dog", "bear_plushie", "berry_bowl", "can", "candle", "cat", "cat2", "clock"),
    *("colorful_sneaker", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8", "duck_toy", "fancy_boot"),
    *("grey_sloth_plushie", "monster_toy", "pink_sunglasses", "poop_emoji", "rc_car", "red_cartoon", "robot_toy"),
    *("shiny_sneaker", "teapot", "vase", "wolf_plushie"),
)
FEWEST, MOST = 4, 6
"""Photos of a subject, as published."""
READABLE = 32
"""Side at which photos are read to see whether they can be."""


def dreambooth_subject(path: str, **options: Any) -> Subject:
    """One of the 30, as `photo_subject` makes it with these options.

    Raises:
        UserError: when its folder is not there, which says how to get it; and what `photo_subject` raises.
    """
    if not Path(path).expanduser().is_dir():
        ways = "run quantbooth-data dreambooth, or set paths.dreambooth=DIR or subject.path=DIR"
        raise UserError(f"found no photos at {path}; {ways}")
    return photo_subject(path, **options)


def present(folder: Path) -> list[str]:
    """Those of the 30 that a folder has.

    Raises:
        UserError: when it has none.
    """
    found = [name for name in NAMES if (folder / name).is_dir()]
    if not found:
        raise UserError(
            f"none of DreamBooth's subjects in {folder}; it must hold folders such as {NAMES[0]}, {NAMES[1]}"
        )
    return found


def check_photos(folder: Path) -> int:
    """How many photos a subject's folder has, each of them readable.

    Raises:
        UserError: for a photo that cannot be read, and for fewer than 4 or more than 6.
    """
    files = photo_files(folder)
    for file in files:
        read_photo(file, READABLE)
    if not FEWEST <= len(files) <= MOST:
        raise UserError(f"{folder} must hold {FEWEST} to {MOST} photos as published, found {len(files)}")
    return len(files)
