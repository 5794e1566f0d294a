"""Sets on normalizations: per sample, exact for the base, attached and detached, copied and checkpointed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.quant import per_channel
from quantbooth.quant.selection import SetSelection

MAKERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "group": lambda: (nn.GroupNorm(2, 4), torch.randn(3, 4, 5, 5)),
    "group on tokens": lambda: (nn.GroupNorm(2, 4), torch.randn(3, 4, 7)),
    "layer": lambda: (nn.LayerNorm(6), torch.randn(3, 5, 6)),
    "layer without bias": lambda: (nn.LayerNorm(6, bias=False), torch.randn(3, 5, 6)),
    "root mean square": lambda: (nn.RMSNorm(6, eps=1e-5), torch.randn(3, 5, 6)),
    "diffusers' of heads": lambda: (RMSNorm(6, eps=1e-5), torch.randn(3, 2, 5, 6)),
    "diffusers' with bias": lambda: (RMSNorm(6, eps=1e-5, bias=True), torch.randn(3, 5, 6)),
}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm, x = MAKERS[request.param]()
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        return norm.requires_grad_(False), x


def attached(norm: Any, count: int = 2) -> SetSelection:
    """Random sets."""
    selection, generator = SetSelection(), torch.Generator().manual_seed(1)
    per_channel.attach_(norm, count, selection)
    with torch.no_grad():
        for numbers in learning(norm):
            numbers.uniform_(0.5, 1.5, generator=generator)
    return selection


def learning(norm: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in norm.parameters() if parameter.requires_grad]


def test_a_set_is_the_normalization_with_another_weight_and_bias(made: tuple[Any, Tensor]) -> None:
    """norm(x) = w xhat + b, so y = g norm(x) + s has the weight g w and the bias g b + s."""
    norm, x = made
    plain = copy.deepcopy(norm).double()
    attached(norm).choose(torch.tensor([2, 0, 1]))
    y = norm(x)
    for i, k in enumerate([2, 0, 1]):
        other = copy.deepcopy(plain)
        if k:
            gain = norm.gain_out[k - 1].double()
            other.weight.mul_(gain)
            if per_channel.bias_of(norm) is not None:
                other.bias.mul_(gain).add_(norm.shift[k - 1].double())
        torch.testing.assert_close(y[i : i + 1].double(), other(x[i : i + 1].double()), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences(made: tuple[Any, Tensor]) -> None:
    norm, x = made
    if isinstance(norm, RMSNorm):
        pytest.skip("diffusers' RMSNorm computes in float32, which differences cannot resolve; torch's is beside it")
    attached(norm.double()).choose(torch.tensor([1, 0, 1]))
    for name, numbers in list(norm.named_parameters()):
        if numbers.requires_grad:
            delattr(norm, name)
            norm.register_parameter(name, nn.Parameter(numbers.detach().double()))
    parameters = learning(norm)

    def value(x: Tensor, *numbers: Tensor) -> Tensor:
        held = dict(zip([n for n, p in norm.named_parameters() if p.requires_grad], numbers, strict=True))
        y: Tensor = torch.func.functional_call(norm, held, (x,))
        return y

    assert torch.autograd.gradcheck(value, (x.double().requires_grad_(), *parameters), fast_mode=True)


def test_the_base_is_served_bit_for_bit_among_others(made: tuple[Any, Tensor]) -> None:
    norm, x = made
    base = norm(x)
    attached(norm).choose(torch.tensor([0, 1, 0]))
    y = norm(x)
    assert [torch.equal(y[i], base[i]) for i in range(3)] == [True, False, True]


def test_it_stays_the_module_it_was_and_detaching_leaves_nothing(made: tuple[Any, Tensor]) -> None:
    norm, x = made
    base, kind, before = norm(x), type(norm), dict(vars(norm))
    attached(norm)
    assert type(norm) is kind
    assert {"weight", "gain_out"} <= set(norm.state_dict())
    per_channel.detach_(norm)
    assert vars(norm).keys() == before.keys()
    assert list(norm.state_dict()) == list(kind.state_dict(copy.deepcopy(norm)))
    assert torch.equal(norm(x), base)
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_a_deep_copy_computes_the_same_and_learns_apart(made: tuple[Any, Tensor]) -> None:
    norm, x = made
    attached(norm).choose(torch.tensor([1, 2, 1]))
    before, other = norm(x), copy.deepcopy(norm)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other.gain_out.mul_(2)
    assert torch.equal(norm(x), before)
    assert not torch.equal(other(x), before)
    per_channel.detach_(other)
    assert torch.equal(norm(x), before)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_bit(made: tuple[Any, Tensor], reentrant: bool) -> None:
    norm, x = made
    attached(norm).choose(torch.tensor([1, 0, 2]))

    def gradients(through: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        norm.zero_grad()
        through(leaf).square().sum().backward()
        return [tensor.grad for tensor in (leaf, *learning(norm)) if tensor.grad is not None]

    plain = gradients(norm)
    again = gradients(lambda leaf: checkpoint(norm, leaf, use_reentrant=reentrant))
    assert len(plain) == 1 + len(learning(norm))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_those_with_a_weight_per_channel_are_found() -> None:
    class Own(nn.LayerNorm):
        """A subclass, as diffusers has some."""

    model = nn.ModuleDict(
        {
            "group": nn.GroupNorm(1, 2),
            "own": Own(3),
            "bare": nn.LayerNorm(3, elementwise_affine=False),
            "root": nn.RMSNorm(3),
            "diffusers": RMSNorm(3, eps=1e-5),
            "bare root": RMSNorm(3, eps=1e-5, elementwise_affine=False),
            "wide": nn.LayerNorm((2, 3)),
            "batch": nn.BatchNorm2d(2),
        }
    )
    assert [name for name, _ in per_channel.normalizations(model)] == ["group", "own", "root", "diffusers"]


def test_an_unset_selection_is_refused() -> None:
    norm = nn.GroupNorm(1, 2)
    per_channel.attach_(norm, 1, SetSelection())
    with pytest.raises(RuntimeError, match="must be chosen for every sample"):
        norm(torch.zeros(1, 2, 3))
