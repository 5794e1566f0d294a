"""quantbooth-plan: say what memory and time the stages of a run need, before any weight is read.

quantbooth-plan base=sdxl base.path=DIR trainer=gpu
quantbooth-plan base=sdxl base.path=DIR preset=12gb tuner=lora quant=fp
quantbooth-plan -m base=toy quant=w4,w8    # as many options as quantbooth takes, or a sweep
"""

from collections.abc import Iterator

import psutil
import torch
from omegaconf import DictConfig

from quantbooth.data.protocol import AUTO
from quantbooth.planning.autocast import DTYPES
from quantbooth.planning.speed import products_per_second
from quantbooth.planning.stages import Peak
from quantbooth.run.planned import advice, on_card, require_planned, stages, uncounted
from quantbooth.run.run import Run
from quantbooth.runtime.progress import duration

__all__ = ["check_job", "job", "lines"]

UNUSED = ("logger", "callbacks", "preview", "report", "strength", "unconditional_strength", "reward_guidance", "lora")
"""Options that decide no memory, or that are not counted."""
UNITS = ("B", "kB", "MB", "GB")


def lines(run: Run, libraries: int, machine: int, speed: float | None) -> Iterator[str]:
    """Yield the lines about a plan, each as soon as it is counted.

    Args:
        run: whose it is.
        libraries: bytes of this process, which a run on the CPU has beside its tensors.
        machine: bytes of memory that the machine has, which bound a run on the CPU.
        speed: floating-point operations a second of the run's device; None where it is not here.
    """
    card, gigabytes = on_card(run), run.settings["resources"]["memory_gb"]
    beside = 0 if card else libraries
    counts, found = stages(run), list[Peak]()
    yield f"{run.base_name} {run.plan.name} {run.weights_name}, {run.settings['trainer']['precision']}"
    for count in counts.values():
        found.append(one := count())
        parts = ", ".join(f"{name} {_size(size)}" for name, size in one.parts.items())
        yield f"  {one.stage:<12}{_size(one.peak + beside):>9}  {parts}"
    highest = max(found, key=lambda one: one.peak)
    where = "of the card's memory" if card else f"with {_size(libraries)} of libraries"
    yield f"peak: {_size(highest.peak + beside)} {where}, in {highest.stage}"
    yield from times(run, found, speed)
    files = {name: size for one in found for name, size in one.files.items()}
    yield "files: " + ", ".join(f"{name} {_size(size)}" for name, size in files.items())
    if card:
        yield "not counted: the context of CUDA, kernels' workspaces, and what graphs keep for themselves"
    else:
        yield "not counted: free memory that malloc keeps, and what operations use inside of themselves"
    if run.protocol.batch == AUTO:
        yield "protocol.batch=auto takes as many pictures at a time as fit; sampling is that of one"
    yield from (f"not counted: {what}" for what in uncounted(run))
    if gigabytes is not None or not card:
        room = machine if gigabytes is None else gigabytes * 10**9
        yield from verdict(run, found, room, beside)


def times(run: Run, found: list[Peak], speed: float | None) -> Iterator[str]:
    """Yield the arithmetic of the stages that take most of the time, and how long it lasts at a speed."""
    flops = {one.stage: one.flops for one in found if one.flops}
    batches = run.recipe.batches * len(run.plan.runs)
    work = {"tuning": batches * flops["tuning"], "a picture": flops["sampling"]}
    one = f"{batches} batches of {_large(flops['tuning'])}FLOP"
    yield f"work: tuning {_large(work['tuning'])}FLOP ({one}), a picture {_large(work['a picture'])}FLOP"
    if speed is None:
        yield "time: not estimated, since the run's device is not here"
    else:
        took = ", ".join(f"{name} {duration(flop / speed)}" for name, flop in work.items())
        yield f"time: at least {took}, at the {_large(speed)}FLOP/s of this machine's products of matrices"


def verdict(run: Run, found: list[Peak], room: float, beside: int) -> Iterator[str]:
    """Yield whether each stage fits into memory; for one that does not, options with which it does.

    Args:
        run: whose stages they are.
        found: their peaks.
        room: bytes of memory.
        beside: bytes that are taken by others.
    """
    large = [one for one in found if one.peak + beside > room]
    if not large:
        yield f"fits in {_size(room)}"
    for one in large:
        parts = {**one.parts, "work": one.peak - sum(one.parts.values())}
        part = max(parts, key=lambda name: parts[name])
        said = f"{one.stage} does not fit in {_size(room)}: needs {_size(one.peak + beside)}, most of it {part}"
        taken, least = advice(run, one, room - beside)
        with_them = f"with {' '.join(taken)} it needs {_size(least + beside)}"
        yield said + (f"; {with_them}" if taken else "; no other option of memory lowers it")


def _large(count: float) -> str:
    """Return a number with three digits and its prefix: 1.2e12 is "1.20 T"."""
    for prefix in ("", "k", "M", "G", "T"):
        if count < 999.5:
            return f"{count:.3g} {prefix}"
        count /= 1000
    return f"{count:.3g} P"


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
    for line in lines(run, libraries, psutil.virtual_memory().total, _speed(run)):
        print(line, flush=True)  # noqa: T201


def _speed(run: Run) -> float | None:
    """Return the speed of products on the run's device and in its precision; None where it is not here."""
    if on_card(run) and not torch.cuda.is_available():
        return None
    dtype = DTYPES.get(run.settings["trainer"]["precision"], torch.float32)
    return products_per_second(torch.device("cuda" if on_card(run) else "cpu"), dtype)
