"""quantbooth-plan: say what memory each stage of a run needs at the most, before any weight is read.

quantbooth-plan base=sdxl base.path=DIR trainer=gpu
quantbooth-plan base=sdxl base.path=DIR preset=12gb tuner=lora quant=fp
quantbooth-plan -m base=toy quant=w4,w8    # as many options as quantbooth takes, or a sweep
"""

from collections.abc import Iterator, Sequence

import psutil
from omegaconf import DictConfig

from quantbooth.data.protocol import AUTO
from quantbooth.planning.stages import Peak
from quantbooth.run.planned import on_card, peaks, require_planned, uncounted
from quantbooth.run.run import Run

__all__ = ["check_job", "job", "lines"]

UNUSED = ("logger", "callbacks", "preview", "report", "strength", "unconditional_strength", "lora")
"""Options that decide no memory, or that are not counted."""
UNITS = ("B", "kB", "MB", "GB")


def lines(run: Run, found: Sequence[Peak], libraries: int) -> Iterator[str]:
    """Yield the lines about a plan.

    Args:
        run: whose it is.
        found: the peak of each stage.
        libraries: bytes of this process, which a run on the CPU has beside its tensors.
    """
    card = on_card(run)
    where = "of the card's memory" if card else f"with {_size(libraries)} of libraries"
    yield f"{run.base_name} {run.plan.name} {run.weights_name}, {run.settings['trainer']['precision']}"
    for one in found:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in one.parts.items())
        yield f"  {one.stage:<12}{_size(one.peak + (0 if card else libraries)):>9}  {parts}"
    highest = max(found, key=lambda one: one.peak)
    yield f"peak: {_size(highest.peak + (0 if card else libraries))} {where}, in {highest.stage}"
    files = {name: size for one in found for name, size in one.files.items()}
    yield "files: " + ", ".join(f"{name} {_size(size)}" for name, size in files.items())
    yield "seconds: not estimated, since no measured row is of this machine"
    if card:
        yield "not counted: the context of CUDA, kernels' workspaces, and what graphs keep for themselves"
    else:
        yield "not counted: free memory that malloc keeps, which MALLOC_MMAP_THRESHOLD_=65536 gives back"
    if run.protocol.batch == AUTO:
        yield "protocol.batch=auto takes as many pictures at a time as fit; sampling is that of one"
    yield from (f"not counted: {what}" for what in uncounted(run))


def _size(size: float) -> str:
    for unit in UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} {UNITS[-1]}"


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    require_planned(Run(cfg))


def job(cfg: DictConfig) -> None:
    """Print the plan of one configuration."""
    run, libraries = Run(cfg), psutil.Process().memory_info().rss
    found = list(peaks(run))
    print("\n".join(lines(run, found, libraries)))  # noqa: T201
