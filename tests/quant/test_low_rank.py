"""A LoRA term: per sample, exact for the base, on float and packed layers, against a float64 twin."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.quant.format import Grid
from quantbooth.quant.low_rank import FOREIGN, LEARNED, adapt_, delta, form_of, release_
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import KINDS as QUANTIZED
from quantbooth.runtime.errors import UserError

RANK, SCALE = 2, 0.7
MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vectors": (lambda: nn.Linear(7, 5), (3, 7)),
    "tokens": (lambda: nn.Linear(7, 5, bias=False), (3, 4, 7)),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1), (3, 4, 5, 5)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 6)),
    "dilated": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(2, 1), bias=False), (3, 4, 7, 6)),
}


@pytest.fixture(params=[f"{name}, {weights}" for name in MAKERS for weights in ("float", "packed")])
def made(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    name, weights = request.param.split(", ")
    make, shape = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = make().requires_grad_(False), torch.randn(shape)
    return (layer if weights == "float" else QUANTIZED[type(layer)].from_float(layer, MinMaxObserver(Grid(4)))), x


def factors(layer: nn.Module, sets: int = 2) -> tuple[Tensor, Tensor]:
    draw, shapes = torch.Generator().manual_seed(1), form_of(layer).shapes(RANK)
    down, up = (torch.randn(sets, *shape, generator=draw) for shape in shapes)
    return down, up


def adapted(layer: nn.Module, *index: int) -> SetSelection:
    selection = SetSelection()
    adapt_(layer, LEARNED, *factors(layer), SCALE, selection)
    selection.choose(torch.tensor(index))
    return selection


def twin(layer: nn.Module, x: Tensor, index: list[int]) -> Tensor:
    """Each sample alone, float64: the layer, and a plain layer of the same kind with the weight s B_k A_k."""
    plain, outputs = copy.deepcopy(layer), []
    release_(plain, LEARNED)
    for sample, k in zip(x, index, strict=True):
        y = plain(sample[None]).double()
        change = delta(layer, LEARNED, k)
        if change is not None:
            y = y + plainly(layer, sample[None].double(), change.double())
        outputs.append(y)
    return torch.cat(outputs)


def plainly(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return x @ weight.T
    window = layer if isinstance(layer, nn.Conv2d) else layer.product
    return torch.nn.functional.conv2d(x, weight, None, window.stride, window.padding, window.dilation)  # type: ignore


def test_a_mixed_batch_is_each_sample_with_its_own_set(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    adapted(layer, 2, 0, 1)
    torch.testing.assert_close(layer(x).double(), twin(layer, x, [2, 0, 1]), rtol=1e-5, atol=1e-5)


def test_the_weight_it_amounts_to_is_the_product_worked_by_hand() -> None:
    layer = nn.Linear(2, 2)
    adapt_(layer, LEARNED, torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0], [-1.0]]]), 0.5, SetSelection())
    assert torch.equal(delta(layer, LEARNED, 1), torch.tensor([[1.5, 3.0], [-0.5, -1.0]]))  # type: ignore[arg-type]
    assert delta(layer, LEARNED, 0) is None
    assert delta(layer, FOREIGN, 1) is None


def test_gradients_are_those_of_finite_differences(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        pytest.skip("the packed product is in float32 by its scales; its own gradients are tested where it is")
    layer, x = layer.double(), x.double()
    selection = SetSelection()
    down, up = (tensor.double() for tensor in factors(layer))
    adapt_(layer, LEARNED, down, up, SCALE, selection)
    selection.choose(torch.tensor([1, 0, 2]))

    def value(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, {"lora_A": down, "lora_B": up}, (x,))
        return y

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, down, up)]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


def test_gradients_of_packed_layers_are_those_of_the_twin(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    adapted(layer, 2, 0, 2)
    one, other = x.clone().requires_grad_(), x.clone().double().requires_grad_()
    (layer(one) ** 2).sum().backward()
    down, up = (layer.get_parameter(f"lora_{part}") for part in "AB")
    assert down.grad is not None and up.grad is not None
    assert (down.grad[0] == 0).all() and (up.grad[0] == 0).all()
    plain, change = copy.deepcopy(layer), [tensor.detach()[1].double().requires_grad_() for tensor in (down, up)]
    release_(plain, LEARNED)
    weight = SCALE * (change[1] @ change[0].flatten(1)).view(len(change[1]), *change[0].shape[1:])
    base = plain(other.float()).double()
    added = plainly(layer, other, weight) * torch.tensor([1.0, 0, 1]).view(3, *[1] * (base.ndim - 1))
    ((base + added) ** 2).sum().backward()
    for mine, yours in ((one, other), (down[1:], change[0]), (up[1:], change[1])):
        grad = mine.grad if mine is one else (down.grad if mine.shape == down[1:].shape else up.grad)[1]
        torch.testing.assert_close(grad.double(), yours.grad, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]


def test_the_base_is_served_bit_for_bit_among_others(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    before = layer(x)
    adapted(layer, 0, 1, 0)
    after = layer(x)
    assert [torch.equal(after[i], before[i]) for i in range(3)] == [True, False, True]


def test_half_inputs_give_half_outputs_and_float32_gradients(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    adapted(layer, 1, 2, 0)
    expected = layer(x)
    if isinstance(layer, nn.Linear | nn.Conv2d):
        for name in ("weight", "bias"):
            if getattr(layer, name) is not None:
                setattr(layer, name, nn.Parameter(getattr(layer, name).bfloat16(), requires_grad=False))
    y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
    y.float().square().sum().backward()
    for part in "AB":
        numbers = layer.get_parameter(f"lora_{part}")
        assert numbers.dtype == torch.float32
        assert numbers.grad is not None and numbers.grad.dtype == torch.float32 and (numbers.grad != 0).any()


def test_under_autocast_the_term_is_in_its_precision() -> None:
    layer = nn.Linear(7, 5).requires_grad_(False)
    adapted(layer, 1, 0, 2)
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_bit(made: tuple[nn.Module, Tensor], reentrant: bool) -> None:
    layer, x = made
    adapted(layer, 1, 0, 2)

    def gradients(through: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        through(leaf).square().sum().backward()
        return [tensor.grad for tensor in (leaf, *layer.parameters()) if tensor.grad is not None]

    plain = gradients(layer)
    again = gradients(lambda leaf: checkpoint(layer, leaf, use_reentrant=reentrant))
    assert len(plain) == 3
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_nothing_of_a_weights_size_is_kept(kept: Callable[..., tuple[list[Tensor], Tensor]]) -> None:
    layer, x = nn.Linear(200, 300).requires_grad_(False), torch.randn(3, 200)
    adapted(layer, 1, 2, 1)
    saved, _ = kept(layer, x.requires_grad_())
    own = layer.get_parameter("weight").data_ptr()
    sizes = [tensor.numel() for tensor in saved if tensor.untyped_storage().data_ptr() != own]
    assert sizes and max(sizes) <= 2 * RANK * 300  # all of A or all of B


def test_a_deep_copy_computes_the_same_and_learns_apart(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    adapted(layer, 1, 2, 1)
    before, other = layer(x), copy.deepcopy(layer)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other.get_parameter("lora_B").mul_(2)
    assert torch.equal(layer(x), before)
    assert not torch.equal(other(x), before)


def test_it_stays_the_layer_it_was_and_releasing_leaves_nothing(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    before, kind, names = layer(x), type(layer), set(vars(layer))
    keys = list(layer.state_dict())
    adapted(layer, 1, 2, 1)
    assert type(layer) is kind
    assert set(layer.state_dict()) == {*keys, "lora_A", "lora_B"}
    release_(layer, LEARNED)
    assert set(vars(layer)) == names
    assert list(layer.state_dict()) == keys
    assert torch.equal(layer(x), before)


def test_a_term_for_all_adds_to_a_learned_one_and_travels_in_no_state_dict(made: tuple[nn.Module, Tensor]) -> None:
    layer, x = made
    base, keys = layer(x), list(layer.state_dict())
    down, up = factors(layer, 1)
    adapt_(layer, FOREIGN, down, up, 1.0, None)
    assert list(layer.state_dict()) == keys
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    foreign = layer(x) - base
    adapted(layer, 0, 2, 1)
    both = layer(x)
    release_(layer, FOREIGN)
    torch.testing.assert_close(both, layer(x) + foreign, rtol=1e-4, atol=1e-4)
    assert (foreign[0] != 0).any()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), "^an adapted convolution must have one group; leave this layer out$"),
        (
            nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
            "must pad with zeros, by numbers given; got padding_mo",
        ),
        (nn.Conv2d(4, 6, 3, padding="same"), "got padding_mode='zeros', padding='same'$"),
    ],
)
def test_convolutions_it_does_not_cover_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        form_of(layer)


def test_misuse_is_a_defect() -> None:
    layer = nn.Linear(7, 5)
    adapted(layer, 1, 1, 1)
    with pytest.raises(RuntimeError, match="must be adapted once: call detach_ first"):
        adapted(layer, 1)
    with pytest.raises(RuntimeError, match="chosen for 3 samples, got 2"):
        layer(torch.zeros(2, 7))
    with pytest.raises(TypeError, match=r"^layer must be one of Linear, Conv2d, .*, got ReLU$"):
        form_of(nn.ReLU())
