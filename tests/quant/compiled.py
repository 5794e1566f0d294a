"""`torch.compile` has quantized layers in one graph: without a break the results and gradients of eager mode.

`test_compiling.py` runs these tests in a process whose annotations are not checked, since a graph cannot check them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from experiments.random_base import random_base
from experiments.reliability.tiny import TINY
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.router import route_
from quantbooth.quant import adapters
from quantbooth.quant.format import BITS, Grid
from quantbooth.quant.kernels import choice as kernels
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.timesteps.zones import zones_from_borders
from quantbooth_toyworld.models import new_denoiser, untrained_base

PARTS = {
    "outputs": (1, Parts()),
    "all": (3, Parts(inputs=True, biases=True, norms=True)),
    "groups": (2, Parts(biases=True, group_size=2)),
}
CHOICE = torch.tensor([1, 0, 1])
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # eager mode divides y by its gain, a graph keeps u


class Network(nn.Module):
    """A convolution, a norm and a linear layer; the latter two may be checkpointed."""

    def __init__(self, bits: int, checkpointing: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Linear(6, 4)
        self.checkpointing = checkpointing
        quantize_(self, MinMaxObserver(Grid(bits)))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = checkpoint(self.block, x, use_reentrant=False) if self.checkpointing else self.block(x)
        return y

    def block(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(silu(self.norm(x)).flatten(2).transpose(1, 2))
        return y


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forgets graphs: the choice of kernels is a constant of them."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tuned(bits: int, parts: str, checkpointing: bool = False) -> tuple[Network, SetSelection]:
    network, (sets, which) = Network(bits, checkpointing), PARTS[parts]
    selection = attach_(network, sets, parts=which)
    for one in network.parameters():
        if one.requires_grad:
            one.data += 0.1 * torch.randn_like(one)
    return network, selection


def outcome(network: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Return y and the gradients of x and of all that is trained."""
    network.zero_grad()
    leaf = x.clone().requires_grad_()
    y = run(leaf)
    y.float().square().sum().backward()
    return [y.detach(), *(one.grad.clone() for one in (leaf, *network.parameters()) if one.grad is not None)]


def compiled(network: nn.Module, backend: str = "aot_eager") -> Callable[[Tensor], Tensor]:
    made: Callable[[Tensor], Tensor] = torch.compile(network, fullgraph=True, backend=backend)
    return made


@pytest.mark.parametrize(
    ("bits", "parts", "checkpointing", "backend"),
    [
        *(pytest.param(bits, "all", False, "eager", marks=pytest.mark.slow) for bits in BITS),
        (4, "all", True, "eager"),
        (4, "all", True, "aot_eager"),
        (4, "outputs", False, "aot_eager"),
        (4, "groups", True, "aot_eager"),
    ],
)
def test_a_graph_computes_what_eager_mode_does(bits: int, parts: str, checkpointing: bool, backend: str) -> None:
    network, selection = tuned(bits, parts, checkpointing)
    run, counts = compiled(network, backend), torch._dynamo.utils.counters
    counts.clear()
    for choice in (CHOICE, 1 - CHOICE):
        selection.choose(choice)
        x = torch.randn(3, 4, 5, 5)
        found, expected = outcome(network, run, x), outcome(network, network, x)
        assert len(found) == len(expected) == 2 + sum(one.requires_grad for one in network.parameters())
        close(found, expected)
    assert counts["stats"]["unique_graphs"] == 1  # another choice is no other graph


def test_adapters_and_half_precision_are_in_it() -> None:
    network = Network(4)
    selection = SetSelection()
    adapters.attach_(network, ["first", "last"], 2, 3, 1.0, selection, torch.Generator().manual_seed(0))
    selection.choose(CHOICE)
    x = torch.randn(3, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = outcome(network, compiled(network), x), outcome(network, network, x)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_a_set_that_is_not_there_ends_a_graph_too() -> None:
    network, selection = tuned(4, "all")
    selection.choose(torch.tensor([1, 0, 4]))
    with pytest.raises(RuntimeError, match=r"the selection must name sets in \[0, 3\]"):
        compiled(network)(torch.randn(3, 4, 5, 5))


def denoiser_of(kind: str) -> Base:
    if kind == "unet":
        return frozen(replace(untrained_base(["a", "mug"], seed=0), denoiser=new_denoiser(TINY)))
    return frozen(random_base(kind))


@pytest.mark.parametrize("kind", [pytest.param("unet", marks=pytest.mark.slow), "tiny-pixart"])
def test_a_routed_denoiser_is_one_graph_of_its_checkpointed_forward(kind: str) -> None:
    """The router, which looks at timesteps, stays a hook beside it."""
    base, selection = denoiser_of(kind), SetSelection()
    quantize_(base.denoiser, MinMaxObserver(Grid(4)), exclude=base.family.float_layers)
    attach_(base.denoiser, 2, selection, Parts(inputs=True))
    learned = [one for one in base.denoiser.parameters() if one.requires_grad]
    for one in learned:
        one.data += 0.05 * torch.randn_like(one)
    route_(base, zones_from_borders({"low": [0, 500], "high": [500, 1000]}, 1000).index, selection)
    base.enable_gradient_checkpointing_()
    text = base.encode_prompts(["a mug", "a mug"])
    inputs = [(torch.randn(2, *base.latent_shape), torch.tensor(t)) for t in ([100, 800], [900, 300])]

    def step(x: Tensor, t: Tensor) -> list[Tensor]:
        y = base.predict(x, t, text)
        return [y.detach(), *torch.autograd.grad(y.square().mean(), learned)]

    expected, counts = [step(*given) for given in inputs], torch._dynamo.utils.counters
    counts.clear()
    base.denoiser.forward = torch.compile(base.denoiser.forward, fullgraph=True, backend="eager")
    for given, wanted in zip(inputs, expected, strict=True):
        close(step(*given), wanted)
    assert counts["stats"]["unique_graphs"] == 1


# ---- Triton's kernels


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("parts", "checkpointing"), [("all", True), ("outputs", False)])
def test_kernels_are_operators_of_a_graph(parts: str, checkpointing: bool) -> None:
    network, selection = tuned(4, parts, checkpointing)
    selection.choose(CHOICE)
    called: list[str] = []

    def seen(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        called.extend(str(node.target) for each in graph.modules() if isinstance(each, torch.fx.GraphModule)
                      for node in each.graph.nodes)  # fmt: skip
        return graph

    x = torch.randn(3, 4, 5, 5)
    with kernels.use(kernels.FUSED):
        found = outcome(network, torch.compile(network, fullgraph=True, backend=seen), x)
        expected = outcome(network, network, x)
    close(found, expected)
    names = {name.split(".")[1] for name in called if name.startswith("quantbooth.")}
    assert names == {"affine", "dequantize", "gradients", "select", "select_gradient"}
