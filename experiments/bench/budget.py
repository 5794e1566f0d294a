"""What a case needs at the most, roughly, and groups of cases that fit into memory side by side.

    need = (libraries and working space + weights * bytes per weight + batch * activations) * (1 + reserve)

The numbers only decide what may run at once; they are no result and are in no table. Activations are what autograd
keeps of the float denoiser (counted on the meta device: 0.5 GB for SD 1.5, 0.9 GB for SDXL), made larger for what comes
and goes.
"""

from collections.abc import Sequence

import psutil
import torch

from experiments.bench.cases import Case, reference
from experiments.bench.sizes import SIZES
from quantbooth.runtime.errors import UserError

__all__ = ["available_gb", "groups", "need_gb"]

LIBRARIES_GB, RESERVE = 1.4, 0.1
BYTES = {"floor": 4.0, "float": 16.0, "lora": 4.1}
PLAIN = {False: 9.2, True: 2.0}
"""Bytes per weight of plain PEQA: codes of a byte and two float copies; with checkpointing those of one block."""
ACTIVATIONS_GB = {"sd15": 0.7, "sdxl": 1.3, "sd35-medium": 3.0, "klein-4b": 12.0}
"""Of one sample of 32x32 latents without checkpointing; with it a part remains, that of the largest block."""
TINY_GB, REMAINING = 0.1, 0.35
SIDE = 32
FREE_GB = 1.0


def available_gb(device: str) -> float:
    """Memory that is free now, without what is left to the rest of the machine."""
    free = torch.cuda.mem_get_info()[0] if device != "cpu" else psutil.virtual_memory().available
    return max(0.0, free / 1e9 - FREE_GB)


def need_gb(case: Case) -> float:
    """The estimate for a case."""
    setting, size = case.setting, SIZES[case.setting.model]
    activations = ACTIVATIONS_GB.get(setting.model, TINY_GB) * case.batch * (setting.latents / SIDE) ** 2
    if setting.checkpointing:
        activations *= REMAINING
    return (LIBRARIES_GB + _weights_gb(case, size.parameters, size.linear) + activations) * (1 + RESERVE)


def _weights_gb(case: Case, parameters: int, linear: int) -> float:
    match case.method:
        case "qlora":
            held = 4.1 * (parameters - linear) + 0.6 * linear
        case "qlora_packed":
            held = (0.5 + 0.1) * parameters
        case "peqa_plain":
            held = PLAIN[case.setting.checkpointing] * parameters
        case method if case.bits is not None:
            held = (case.bits / 8 + 0.1) * parameters
        case method:
            held = BYTES[method] * parameters
    return held / 1e9


def groups(units: Sequence[tuple[Case, ...]], room_gb: float) -> tuple[list[list[Case]], dict[Case, str]]:
    """Put units into as few groups as fit into the room, each with the reference in it; and why a case fits nowhere.

    Larger units first, each into the first group that has room. A group begins with the reference.

    Raises:
        UserError: when not even the reference fits.
    """
    left_out: dict[Case, str] = {}
    found: list[list[Case]] = []
    for unit in sorted(units, key=_need_of, reverse=True):
        first = reference(unit[0].setting)
        if need_gb(first) > room_gb:
            raise UserError(f"{first} needs about {need_gb(first):.1f} GB of memory, {room_gb:.1f} GB are free")
        more = [case for case in unit if case != first]
        if need_gb(first) + _need_of(tuple(more)) > room_gb:
            reason = f"needs about {_need_of(tuple(more)):.1f} GB beside the reference, {room_gb:.1f} GB were free"
            left_out.update(dict.fromkeys(more, reason))
            continue
        fitting = (group for group in found if _need_of((*group, *more)) <= room_gb)
        group = next(fitting, None)
        if group is None:
            group = [first]
            found.append(group)
        group += more
    return found, left_out


def _need_of(unit: Sequence[Case]) -> float:
    return sum(need_gb(case) for case in unit)
