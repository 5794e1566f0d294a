"""When something is made, by which versions, and from which commit."""

import shutil
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["made"]

NAMED = ("quantbooth", "torch", "diffusers", "lightning")


def made() -> list[tuple[str, str]]:
    """Return the time, the versions, and the commit where there is one, by name."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
    versions = ", ".join(f"{name} {version(name)}" for name in NAMED)
    top, git = Path(__file__).parents[3], shutil.which("git")
    commit = ""
    if git and (top / ".git").exists():
        asked = [git, "-C", str(top), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return [("made", now), ("versions", versions), *([("commit", commit)] if commit else [])]
