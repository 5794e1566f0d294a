"""Frozen weights of every kind of product with random inputs, and a plain float64 twin that computes the same."""

import sys
from collections.abc import Callable, Iterator
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantbooth.quant.format import pack
from quantbooth.quant.ops import Conv2dProduct, LinearProduct, Product, gained_product
from quantbooth.quant.packed_weight import Packed

Case = tuple[Product, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""A product, the shapes of its weight and of x, and the parts of its inputs."""

CASES: dict[str, Case] = {
    "vectors": (LinearProduct(), (5, 7), (3, 7), ()),
    "tokens": (LinearProduct(), (5, 7), (3, 4, 7), ()),
    "grid of tokens": (LinearProduct(), (5, 7), (3, 2, 4, 7), ()),
    "pointwise": (Conv2dProduct((1, 1), (0, 0), (1, 1), 1), (6, 4, 1, 1), (3, 4, 5, 5), ()),
    "padded": (Conv2dProduct((1, 1), (1, 1), (1, 1), 1), (6, 4, 3, 3), (3, 4, 5, 6), ()),
    "strided": (Conv2dProduct((2, 2), (1, 1), (1, 1), 1), (6, 4, 3, 3), (3, 4, 7, 6), ()),
    "dilated": (Conv2dProduct((1, 2), (2, 0), (2, 1), 1), (6, 4, 3, 2), (3, 4, 7, 6), ()),
    "grouped": (Conv2dProduct((1, 1), (1, 1), (1, 1), 2), (6, 2, 3, 3), (3, 4, 5, 5), ()),
    "depthwise": (Conv2dProduct((2, 1), (1, 1), (1, 1), 4), (4, 1, 3, 3), (3, 4, 5, 5), ()),
    "split tokens": (LinearProduct(), (5, 7), (3, 4, 7), (3, 4)),
    "split padded": (Conv2dProduct((1, 1), (1, 1), (1, 1), 1), (6, 4, 3, 3), (3, 4, 5, 6), (3, 1)),
    "split in three": (Conv2dProduct((2, 1), (0, 0), (1, 1), 1), (6, 5, 1, 1), (3, 5, 5, 5), (1, 2, 2)),
}


class Problem:
    """One frozen weight with inputs, and the twin that computes the same plainly."""

    def __init__(self, case: Case, bits: int, seed: int = 0) -> None:
        self.product, self.shape, x_shape, self.split = case
        generator = torch.Generator().manual_seed(seed)
        out, n = self.shape[0], prod(self.shape[1:])
        inputs = x_shape[self.product.channel]
        self.bits, self.groups = bits, inputs // self.shape[1]
        self.q = torch.randint(0, 2**bits, (out, n), dtype=torch.uint8, generator=generator)
        parts = self.q.view(self.shape).split(self.split or self.shape[1], dim=1)
        self.codes = torch.cat([pack(part.flatten(1), bits) for part in parts], dim=1)
        of_parts = (len(parts), out) if self.split else (out,)
        self.zero = torch.randint(0, 2**bits, of_parts, dtype=torch.uint8, generator=generator)
        self.scale = (torch.rand(of_parts, generator=generator) + 0.5) / 2**bits
        self.bias = torch.randn(1, out, generator=generator)
        self.x = torch.randn(x_shape, generator=generator)
        self.gain_out = torch.rand(x_shape[0], out, generator=generator) + 0.5
        self.gain_in = torch.rand(x_shape[0], inputs, generator=generator) + 0.5
        self.biases = self.bias + 0.1 * torch.randn(x_shape[0], out, generator=generator)

    def ours(self, x: Tensor, g_in: Tensor | None, g_out: Tensor | None, b: Tensor | None) -> Tensor:
        packed = Packed(self.bits, self.shape, self.split)
        return gained_product(x, g_in, g_out, b, self.codes, self.scale, self.zero, packed, self.product)

    def twin(self, x: Tensor, g_in: Tensor | None, g_out: Tensor | None, b: Tensor | None) -> Tensor:
        """Each sample alone, float64, the gains on the weight: w[o, i] = g_out[o] (q - z)[o, i] s0[o] g_in[i]."""
        zero, scale = self.of_every_input(self.zero), self.of_every_input(self.scale)
        base = (self.q.view(self.shape).double() - zero) * scale
        outputs = []
        for i, sample in enumerate(x.double()):
            weight = base
            if g_in is not None:
                weight = weight * self.inputs_of_rows(g_in[i].double())
            if g_out is not None:
                weight = weight * g_out[i].double().view(-1, *[1] * (len(self.shape) - 1))
            bias = None if b is None else b[i % len(b)].double()
            if isinstance(self.product, Conv2dProduct):
                p = self.product
                outputs.append(F.conv2d(sample[None], weight, bias, p.stride, p.padding, p.dilation, p.groups)[0])
            else:
                outputs.append(F.linear(sample, weight, bias))
        return torch.stack(outputs)

    def of_every_input(self, numbers: Tensor) -> Tensor:
        """Scales or zero points as [out, in, ones]: input i has those of the part it lies in."""
        parts, sizes = numbers.double().view(-1, self.shape[0]), self.split or (self.shape[1],)
        columns = [part for part, size in zip(parts, sizes, strict=True) for _ in range(size)]
        return torch.stack(columns, dim=1).view(*self.shape[:2], *[1] * (len(self.shape) - 2))

    def inputs_of_rows(self, g_in: Tensor) -> Tensor:
        """The gains of the inputs that each row of the weight sees: row o belongs to group o * groups // out."""
        rows, of_group = self.shape[:2]
        seen = torch.stack([g_in.view(self.groups, of_group)[o * self.groups // rows] for o in range(rows)])
        return seen.view(rows, of_group, *[1] * (len(self.shape) - 2))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every kind of product, one after the other."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def problem_of() -> Callable[..., Problem]:
    """Makes the problem of a case, or of its name, at some bits."""
    return lambda case, bits=4: Problem(CASES[case] if isinstance(case, str) else case, bits)


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Tensor]]:
    """Gives the value and the gradients of a fixed uneven loss in every input that is there."""

    def value_and_gradients(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
        leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in inputs]
        y = function(*leaves)
        ramp = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
        (y.double() * ramp).sum().backward()
        grads = [leaf.grad for leaf in leaves if leaf is not None]
        return [y.detach(), *[grad for grad in grads if grad is not None]]

    return value_and_gradients


@pytest.fixture(scope="session")
def kept() -> Callable[..., tuple[list[Tensor], Tensor]]:
    """Gives what autograd keeps of a computation, and its value."""

    def saved_and_value(function: Callable[..., Tensor], *inputs: Tensor | None) -> tuple[list[Tensor], Tensor]:
        saved: list[Tensor] = []

        def pack_hook(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            y = function(*inputs)
        return saved, y

    return saved_and_value


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    """Runs Triton's kernels in its interpreter.

    Triton reads this where a kernel is defined; ours use none of Triton's own, defined before.
    """
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, "quantbooth.quant.kernels.fused", raising=False)
        yield
        sys.modules.pop("quantbooth.quant.kernels.fused", None)
