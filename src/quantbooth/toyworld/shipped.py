"""Where the toy base and its judges are: package data, trained by this project's own code."""

from pathlib import Path

__all__ = ["base_folder", "judges_folder"]

ASSETS = Path(__file__).parent / "assets"


def base_folder() -> Path:
    """The diffusers folder of the toy base."""
    return ASSETS / "base"


def judges_folder() -> Path:
    """The folder of scorer, locator and oracle."""
    return ASSETS / "judges"
