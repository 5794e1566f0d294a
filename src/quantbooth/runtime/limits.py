"""Limits of the machine (memory, disk, open files, threads) as one line: what was reached, where, what to change."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

__all__ = ["STORAGE", "is_out_of_memory", "limit", "number_of"]

STORAGE = {
    errno.ENOSPC: "the disk of {place} is full; free some space, or {elsewhere}",
    errno.EDQUOT: "the quota on the disk of {place} is used up; free some space, or {elsewhere}",
    errno.EFBIG: "{place} is larger than a file may be here; raise the limit (ulimit -f unlimited), or {elsewhere}",
    errno.EROFS: "{place} is on a read-only file system; {elsewhere}",
    errno.EACCES: "{place} does not permit this user to use it; change its permissions, or {elsewhere}",
    errno.EPERM: "{place} does not permit this user to use it; change its permissions, or {elsewhere}",
    errno.ESTALE: "{place} was lost by its file server (stale file handle); run the same command again, or {elsewhere}",
    errno.EIO: "the disk of {place} does not work (input/output error); run the same command again, or {elsewhere}",
}
"""Errors of the storage of a file, by number, each with what helps."""
OPEN_FILES = "too many files are open{at}; raise the limit: ulimit -n 4096"
THREADS = "no more threads or processes can be started; raise the limit (ulimit -u), or set OMP_NUM_THREADS=1"
MEMORY = (
    "{what} is full{size}; take smaller batches: protocol.batch for pictures, tuner.train_batch_size for tuning (or "
    "resources.gradient_checkpointing=true), calibration.set.batch and calibration.rounding.batch for calibration"
)
LIBRARIES = "memory is too small to load {library}; raise the limit of memory (ulimit -v unlimited, or that of the job)"
OTHER = {
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: OPEN_FILES,
    errno.EAGAIN: THREADS,
    errno.ENOMEM: MEMORY.format(what="memory", size=""),
}
MADE = ("paths.store", "paths.logs")
"""Options of folders that a command makes itself."""
OUT_OF_MEMORY = re.compile("out of memory|can('t|not) allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)

NOT_LOADED = re.compile(
    r"([^\s:]+\.so[\w.]*): (failed to map segment|cannot map|cannot create|.*cannot allocate)(?!.*not permitted)",
    re.IGNORECASE,
)
"""What the system's loader says of a library for which no addresses are left (RLIMIT_AS)."""


def limit(error: BaseException, cfg: DictConfig | None = None, option: str | None = None) -> str | None:
    """Return the line about a limit that an error reports; None for any other error.

    Args:
        error: the error, perhaps of a library that wraps that of the system.
        cfg: the configuration, in which the option is searched that chooses the place.
        option: the option to name without one.
    """
    text = str(error)
    if isinstance(error, ImportError | OSError) and (library := NOT_LOADED.search(text)):
        return LIBRARIES.format(library=library[1])
    if is_out_of_memory(error):
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ (?:[KMGT]i?B|bytes))", text)
        what = "the memory of the GPU" if re.search("CUDA|CUBLAS|HIP", text) else "memory"
        return MEMORY.format(what=what, size=f" (tried to allocate {wanted[1]} more)" if wanted else "")
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return THREADS
    number = number_of(error)
    place = str(error.filename) if isinstance(error, OSError) and error.filename else ""
    if number in STORAGE:
        option = _option_of(Path(place), cfg) if place and cfg is not None else option
        elsewhere = f"set {option} to another folder" if option else "use another folder"
        return STORAGE[number].format(
            place=place or "an unnamed file (standard output, or a temporary one)", elsewhere=elsewhere
        )
    if number == errno.ENOENT and place and cfg is not None and _option_of(Path(place), cfg) in MADE:
        return f"{place} was removed while the command ran; run the same command again"
    return OTHER[number].format(at=f", {place} is one too many" if place else "") if number in OTHER else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was full, of the CPU or of a GPU, whichever library says so."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )


def number_of(error: BaseException) -> int | None:
    """Return the number of the system's error, also where a library has written it into its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError":
        text = str(error)
        if found := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", text):
            return int(found[1] or found[2])
        return next((number for number in STORAGE if os.strerror(number) in text), None)
    return None


def _option_of(file: Path, cfg: DictConfig) -> str | None:
    """Return the option that names the innermost folder around a file."""
    found = [
        (len(folder.parts), option)
        for option, value in _leaves(OmegaConf.to_container(cfg, resolve=True), "")
        if (folder := Path(value).expanduser().absolute()) == file.absolute() or folder in file.absolute().parents
        if folder != Path.cwd()
    ]
    return max(found)[1] if found else None


def _leaves(node: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, str) and node and "\n" not in node and "\0" not in node:
        yield prefix, node
