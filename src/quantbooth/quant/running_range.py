"""The range of an activation, watched over the batches of a calibration set.

    low  <- m low  + (1 - m) min(x)
    high <- m high + (1 - m) max(x)

from the first batch's own minimum and maximum on. An average of batches' extremes lies inside the range of all: what
sticks out is cut off, and the rest has finer steps. Q-Diffusion (arXiv 2302.04304) watches with m = 0.95.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.quant.activations import ActivationQuantizer, parts_of

__all__ = ["RunningRange"]


class RunningRange(nn.Module):
    """Stands where a quantizer will stand, and hands on what it is given.

    Args:
        momentum: m.
        split: sizes of the parts along the channels, each watched by itself.
        channel: the axis that counts channels.
    """

    def __init__(self, momentum: float, split: tuple[int, ...] = (), channel: int = -1) -> None:
        super().__init__()
        self.momentum, self.split, self.channel = momentum, split, channel
        self.seen: tuple[Float[Tensor, " parts"], Float[Tensor, " parts"]] | None = None

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return x itself."""
        extremes = [torch.stack(part.aminmax()) for part in parts_of(x.float(), self.split, self.channel)]
        low, high = torch.stack(extremes, dim=1)
        if self.seen is not None:
            low, high = (torch.lerp(new, old, self.momentum) for new, old in zip((low, high), self.seen, strict=True))
        self.seen = low, high
        return x

    def quantizer(self, bits: int) -> ActivationQuantizer:
        """Return a quantizer of the range.

        Raises:
            ValueError: when nothing was seen.
        """
        if self.seen is None:
            raise ValueError("an activation's range must be seen before it is quantized, and nothing passed here")
        made = ActivationQuantizer(bits, self.split, self.channel)
        made.fit_(*self.seen)
        return made
