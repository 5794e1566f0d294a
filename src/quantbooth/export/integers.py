"""The denoiser of a quantized base with an adapter merged into its zero points, in the files of a quantized base."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from quantbooth.calibration.quantized_base import read_records, write_quantized_denoiser
from quantbooth.quant.zero_points import merge_zeros_

__all__ = ["write_integers"]


def write_integers(denoiser: nn.Module, index: int, quantized: Path, folder: Path) -> None:
    """Merge a set's adapters into zero points, and write what `read_quantized_denoiser` reads.

    Codes and scales are those of before; layers with adapters have a float zero point per output channel and group.

    Args:
        denoiser: with the adapters; it is changed.
        index: of the set.
        quantized: the folder of the quantized base, which says how each layer was quantized.
        folder: to write into.

    Raises:
        UserError: when the adapters cannot be merged.
    """
    made = merge_zeros_(denoiser, index)
    records = [
        replace(
            record, split=made[record.name].split, bytes_after=sum(each.nbytes for each in made[record.name].buffers())
        )
        if record.name in made
        else record
        for record in read_records(quantized)
    ]
    write_quantized_denoiser(folder, denoiser, records)
