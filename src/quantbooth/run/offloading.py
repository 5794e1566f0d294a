"""Group offloading as the options of a run say, in tuning and in drawing; whether steps are CUDA graphs beside it."""

from quantbooth.diffusion.base import Base
from quantbooth.quant.group_offload import GroupOffload, require_blocks
from quantbooth.quant.surgery import matching
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say_once

__all__ = ["offload_", "offloads", "recordable", "require_offload"]

SHARED = ("cpu", "mps")
"""Kinds of devices that compute in the memory of the CPU."""


def offloads(run: Run) -> bool:
    """Return whether the codes of blocks stay in the CPU's memory."""
    return bool(run.settings["resources"]["group_offload"])


def require_offload(run: Run, kind: str | None = None) -> None:
    """Refuse offloading that has no effect, and name the option that has none beside it.

    Args:
        run: whose options they are.
        kind: of its device, for a plan; None asks its trainer.

    Raises:
        UserError: for weights that are no packed codes, a device without a memory of its own, and too few blocks.
    """
    if not offloads(run):
        return
    leave = "or leave out resources.group_offload=true"
    if run.calibration.bits is None:
        name = run.settings["quant"]["name"]
        raise UserError(
            f"resources.group_offload=true has no effect on quant={name}, which has no packed codes to send; choose "
            f"another quant, {leave}"
        )
    if (found := kind or run.loop.device.type) in SHARED:
        raise UserError(
            f"resources.group_offload=true has no effect on trainer.accelerator={found}, which computes in the memory "
            f"of the CPU; choose trainer=gpu, {leave}"
        )
    blocks, layers = run.outline.blocks(), matching(run.outline.denoiser, *run.calibration.layers)
    require_blocks(sum(any(layer.startswith(f"{block}.") for layer in layers) for block in blocks))
    if kind is None and run.settings["resources"]["cuda_graphs"]:
        say_once("resources.group_offload=true: steps are not CUDA graphs (resources.cuda_graphs)")


def recordable(run: Run, base: Base) -> bool:
    """Return whether steps are CUDA graphs on a CUDA device; layers that other packages made may not be.

    A denoiser that cannot be one is named.
    """
    if not run.settings["resources"]["cuda_graphs"] or run.calibration.stored or offloads(run):
        return False
    if not base.family.recordable and run.loop.device.type == "cuda":
        say_once(
            f"{run.base_name}: steps are not CUDA graphs (resources.cuda_graphs): its denoiser copies from the CPU"
        )
    return base.family.recordable


def offload_(run: Run, base: Base) -> None:
    """Keep the codes of a quantized base's blocks on the CPU, if the options say so; once for each denoiser."""
    if offloads(run):
        GroupOffload(base.denoiser, base.blocks(), pinned=run.loop.device.type == "cuda")
