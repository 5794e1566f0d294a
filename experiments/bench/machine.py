"""Facts that a figure depends on: the processor, how many threads, versions, and the commit of what was measured."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from quantbooth.runtime.errors import UserError

__all__ = ["commit", "facts"]

ROOT = Path(__file__).parents[2]
MEASURED = ("src/quantbooth/quant", "experiments/bench/*.py", "experiments/bench/methods/*.py")
PACKAGES = ("torch", "diffusers", "peft", "bitsandbytes")


def facts() -> dict[str, Any]:
    """The machine without any name of it."""
    return {
        "cpu": _processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def commit(*measured: str) -> str:
    """The last commit that changed the benchmark, or other paths; with "-dirty" after it where the files are not of it.

    Raises:
        UserError: outside of a git checkout: a figure must name its code.
    """
    paths = measured or MEASURED
    found = _git("log", "-1", "--format=%h", "--", *paths)
    return f"{found or 'none'}-dirty" if _git("status", "--porcelain", "--", *paths) else found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise UserError(f"the benchmark must run in a git checkout, so that figures name a commit: {error}") from error


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.exists():
        return platform.processor() or platform.machine()
    names = [
        line.partition(":")[2].strip() for line in cpu_info.read_text().splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
