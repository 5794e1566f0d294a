"""Attention with fake-quantized queries, keys, values and probabilities: a processor for diffusers' Attention.

    softmax^(q^ k^T / sqrt(d)) v^

Diffusers' AttnProcessor, which computes the softmax explicitly, does the work on the module with quantizers after its
projections and its softmax, so no attention is re-implemented. Fused kernels do not expose the probabilities, so
they are not used, and their memory saving is lost: probabilities are [b heads, n, n] floats.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic reads that of typing from Python 3.12 on

from quantbooth.quant.activations import ActivationBits, ActivationQuantizer, Probabilities
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.runtime.errors import UserError

__all__ = [
    "AttentionRecord",
    "Bits",
    "QuantizedAttention",
    "as_records",
    "empty_attention_",
    "from_records",
    "install_",
    "quantized_attentions",
    "require_attentions",
]

SUPPORTED_PROCESSORS = (AttnProcessor, AttnProcessor2_0)
Bits = dict[str, ActivationBits]
"""Bits by the name of an attention module."""


class QuantizedAttention(nn.Module):
    """The attention processor.

    Args:
        point: returns the fake quantizer after each of the three projections.
        softmax: bits of the probabilities; None leaves them float.
    """

    def __init__(self, point: Callable[[], nn.Module], softmax: int | None) -> None:
        super().__init__()
        self.query, self.key, self.value = point(), point(), point()
        self.probabilities = nn.Identity() if softmax is None else Probabilities(softmax)

    def forward(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the attention module; the arguments are those of diffusers' processors."""
        output: Tensor = AttnProcessor()(_Through(attn, self), hidden_states, *args, **kwargs)
        return output


@dataclass(frozen=True)
class _Through:
    """An attention module as its processor sees it, with quantizers after the three projections and the softmax."""

    attn: Any
    quantizers: QuantizedAttention

    def to_q(self, x: Tensor) -> Any:
        return self.quantizers.query(self.attn.to_q(x))

    def to_k(self, x: Tensor) -> Any:
        return self.quantizers.key(self.attn.to_k(x))

    def to_v(self, x: Tensor) -> Any:
        return self.quantizers.value(self.attn.to_v(x))

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Any:
        return self.quantizers.probabilities(self.attn.get_attention_scores(query, key, mask))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.attn, name)


def quantized_attentions(denoiser: nn.Module) -> list[str]:
    """Return the names of the attention modules that contain a quantized layer, in the order of the model."""
    found = [(name, module) for name, module in denoiser.named_modules() if isinstance(module, Attention)]
    return [name for name, module in found if any(isinstance(inner, QuantizedLayer) for inner in module.modules())]


def install_(denoiser: nn.Module, name: str, processor: QuantizedAttention) -> None:
    """Set the processor of one attention module.

    Raises:
        UserError: when there is no such module, or diffusers' plain processor does not compute its kind.
    """
    attn = dict(denoiser.named_modules()).get(name)
    if not isinstance(attn, Attention):
        raise UserError(f"{name!r} must be an attention module of the denoiser, got {type(attn).__name__}")
    _require_plain(name, attn)
    attn.set_processor(processor)


def require_attentions(denoiser: nn.Module) -> None:
    """Refuse a denoiser in which an attention module computes what cannot be quantized.

    Raises:
        UserError: naming the first such module.
    """
    for name, module in denoiser.named_modules():
        if isinstance(module, Attention | AttentionModuleMixin):
            _require_plain(name, module)


def _require_plain(name: str, attn: Any) -> None:
    kind = type(attn.processor)
    normed = any(getattr(attn, key, None) is not None for key in ("norm_q", "norm_k"))
    if kind not in (*SUPPORTED_PROCESSORS, QuantizedAttention) or normed:
        found = f"{kind.__name__}{', with queries or keys normalized' if normed else ''}"
        raise UserError(
            f"activations can be quantized where AttnProcessor computes attention, got {found} in {name!r}; choose "
            "quant=w4, w3, w2 or w8"
        )


def empty_attention_(denoiser: nn.Module, bits: Bits) -> None:
    """Install processors to be filled from a state dict, on the devices of their modules."""
    for name, own in bits.items():
        module = dict(denoiser.named_modules()).get(name, denoiser)
        device = next(chain(module.parameters(), module.buffers())).device
        point = partial(ActivationQuantizer, own.inputs, device=device)
        install_(denoiser, name, QuantizedAttention(point, own.softmax))


class AttentionRecord(TypedDict):
    """The bits of one attention module, as in a file."""

    name: str
    inputs: int
    softmax: int | None


def as_records(bits: Bits) -> list[dict[str, Any]]:
    """Return the bits of each attention module as plain data."""
    return [{"name": name, **asdict(own)} for name, own in bits.items()]


def from_records(records: Iterable[AttentionRecord]) -> Bits:
    """Return the inverse of `as_records`."""
    return {record["name"]: ActivationBits(record["inputs"], record["softmax"]) for record in records}
