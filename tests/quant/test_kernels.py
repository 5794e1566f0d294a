"""Every Triton kernel equals the formula in PyTorch: here in Triton's interpreter, on a GPU in `make bench-gpu`."""

from contextlib import AbstractContextManager, nullcontext
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.format import BITS, Grid
from quantbooth.quant.kernels import choice as kernels
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.per_channel import affine, gradients
from quantbooth.quant.scale_sets import Parts, attach_, parameters
from quantbooth.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("shape", "split"),
    [((6, 20), ()), ((3, 37), ()), ((5, 7, 3, 3), (4, 3)), ((1, 1), ()), ((4, 33, 1, 1), (16, 17))],
    ids=["linear", "no whole bytes", "split convolution", "one number", "split point"],
)
def test_dequantizes_to_the_same_bits(bits: int, shape: tuple[int, ...], split: tuple[int, ...]) -> None:
    packed = Packed(bits, shape, split)
    scale, zero = packed.fit(torch.randn(shape), MinMaxObserver(Grid(bits)))
    codes = packed.store(torch.randint(0, 2**bits, shape, dtype=torch.uint8))
    for dtype in kernels.SUPPORTED:
        given = (codes, scale, zero.to(torch.uint8), dtype)
        with kernels.use(kernels.FUSED):
            fused = packed.weight(*given)
        with kernels.use(kernels.EAGER):
            eager = packed.weight(*given)
        if dtype == torch.bfloat16:  # the interpreter cuts where a GPU rounds
            torch.testing.assert_close(fused, eager, rtol=2**-7, atol=0)
        else:
            assert torch.equal(fused, eager)


LAYOUTS = {
    "linear": ((3, 7, 5), -1),
    "rows": ((3, 5), -1),
    "image": ((2, 5, 6, 7), 1),
    "channels last": ((2, 5, 6, 7), 1),
    "with gaps": ((2, 5, 6, 7), 1),
    "many positions": ((1, 2, 30, 40), 1),
    "many channels": ((2, 3, 131), -1),
}


def activation(layout: str) -> tuple[Tensor, int]:
    shape, channel = LAYOUTS[layout]
    x = torch.randn(shape)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "with gaps":
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    return x, channel


@pytest.mark.parametrize(
    ("layout", "shifts"), [*((layout, "each") for layout in LAYOUTS), ("image", None), ("linear", None), ("image", 1)]
)
def test_gains_and_their_gradients_are_the_same(layout: str, shifts: int | str | None) -> None:
    u, channel = activation(layout)
    dy, _ = activation(layout)
    gain = 1 + 0.3 * torch.randn(len(u), u.shape[channel]).clamp(-2, 2)
    shift = None if shifts is None else torch.randn(1 if shifts == 1 else len(u), u.shape[channel])
    made = {}
    for choice in (kernels.EAGER, kernels.FUSED):
        with kernels.use(choice):
            y = affine(u.clone(), gain, shift, channel)
            made[choice] = [y, *gradients(dy, u, False, gain, shift, channel, True, True)]
            assert gradients(dy, u, False, gain, shift, channel, False, True)[0] is None
    for eager, fused in zip(*made.values(), strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-5, atol=1e-5)
    double = (
        (dy.double() * u.double()).movedim(channel, 1).flatten(2).sum(2) if u.ndim > 2 else dy.double() * u.double()
    )
    torch.testing.assert_close(made[kernels.FUSED][2], double.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bits", "kind", "parts"),
    [
        (4, "linear", Parts(inputs=True, biases=True)),
        (3, "convolution", Parts(inputs=True, biases=True)),
        (2, "convolution", Parts()),
        (8, "linear", Parts()),
        (8, "linear without bias", Parts(inputs=True)),
        (4, "linear", Parts(inputs=True, biases=True, group_size=2)),
        (3, "convolution", Parts(biases=True, group_size=2)),
    ],
)
def test_a_layer_equals_its_float64_twin(bits: int, kind: str, parts: Parts) -> None:
    made = nn.Conv2d(4, 6, 3, 2, 1) if kind == "convolution" else nn.Linear(10, 6, bias=kind == "linear")
    cls = QuantizedConv2d if kind == "convolution" else QuantizedLinear
    model = nn.Sequential(cls.from_float(made, MinMaxObserver(Grid(bits)))).requires_grad_(False)
    selection = attach_(model, 2, parts=parts)
    learned = [one for several in parameters(model).values() for one in several]
    for one in learned:
        one.data.add_(0.2 * torch.randn_like(one))
    x, dy = torch.randn(4, *((3, 10) if kind != "convolution" else (4, 5, 5))), None
    selection.choose(torch.tensor([0, 2, 1, 2]))

    def run(choice: str, dtype: torch.dtype) -> list[Tensor]:
        nonlocal dy
        given = x.clone().to(dtype).requires_grad_()
        for one in learned:
            one.grad = None
        with kernels.use(choice):
            y = model(given)
            dy = torch.randn(y.shape) if dy is None else dy
            y.backward(dy.to(dtype))
        assert given.grad is not None
        return [
            one.double() for one in (y.detach(), given.grad, *(one.grad for one in learned if one.grad is not None))
        ]

    twin = run(kernels.EAGER, torch.float64)
    for dtype, most in ((torch.float32, 1e-6), (torch.float16, 2e-3)):
        for found, exact in zip(run(kernels.FUSED, dtype), twin, strict=True):
            assert float((found - exact).norm()) <= most * float(exact.norm())


def test_selected_rows_have_the_gradient_of_indexing() -> None:
    from quantbooth.quant.kernels import fused  # noqa: PLC0415  (in the interpreter)

    values, choice = torch.randn(3, 1500, requires_grad=True), torch.tensor([2, 0, 3, 2, 2])
    rows = torch.cat([torch.full((1, 1500), 1.0), values])[choice]
    assert torch.equal(fused.select(values.detach(), choice, 1.0), rows)
    drows = torch.randn_like(rows)
    rows.backward(drows)
    torch.testing.assert_close(fused.select_gradient(drows, choice, 3), values.grad)


def test_a_cpu_and_float64_use_pytorch_and_a_wrong_word_is_refused() -> None:
    assert kernels.fused_for(torch.ones(1)) is None
    with kernels.use(kernels.FUSED):
        assert kernels.fused_for(torch.ones(1, dtype=torch.float64)) is None
        assert kernels.fused_for(torch.ones(1, dtype=torch.uint8), torch.float32) is not None
    with pytest.raises(ValueError, match="quick"), kernels.use("quick"):
        pass


def test_every_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes the current device, which is the first one until Lightning trains on another."""
    from quantbooth.quant.kernels import fused  # noqa: PLC0415  (in the interpreter)

    entered: list[Tensor] = []

    def device_of(x: Tensor) -> AbstractContextManager[None]:
        entered.append(x)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    x, gain, choice = torch.randn(2, 3), torch.ones(2, 3), torch.tensor([1, 0])
    codes, scale, zero = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(2), torch.zeros(2, dtype=torch.uint8)
    fused.dequantize(codes, scale, zero, 8, (3,), (), torch.float32)
    fused.affine(x, gain, None, -1)
    fused.gradients(x, x, gain, None, -1, True)
    fused.select(gain, choice, 1.0)
    fused.select_gradient(x, choice, 2)
    assert [id(one) for one in entered] == [id(one) for one in (codes, x, x, gain, x)]


def test_a_choice_holds_in_the_thread_of_a_backward() -> None:
    """Autograd computes that of a GPU in a thread of its own."""
    found = []
    with kernels.use(kernels.FUSED):
        thread = Thread(target=lambda: found.append(kernels.fused_for(torch.ones(1))))
        thread.start()
        thread.join()
    assert found[0] is not None


def test_a_forward_by_fused_kernels_has_its_backward_after_another_choice() -> None:
    model = nn.Sequential(QuantizedLinear.from_float(nn.Linear(6, 5), MinMaxObserver(Grid(4)))).requires_grad_(False)
    selection = attach_(model, 1)
    selection.choose(torch.tensor([1, 0]))
    gain: Any = model[0].gain_out
    x, found = torch.randn(2, 6), []
    for choice in (kernels.FUSED, kernels.EAGER):
        with kernels.use(choice):
            y = model(x)
        y.square().sum().backward()
        found.append(gain.grad)
        gain.grad = None
    torch.testing.assert_close(*found)


def test_pytorch_computes_where_triton_cannot_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def affine(*_: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    kernels._runs.cache_clear()
    monkeypatch.setattr(kernels, "_fused", lambda: SimpleNamespace(affine=affine))
    assert not kernels._runs(torch.device("cpu"))
    assert "Failed to find C compiler" in caplog.text
    monkeypatch.undo()
    kernels._runs.cache_clear()
    assert kernels._runs(torch.device("cpu"))
    kernels._runs.cache_clear()


def test_chosen_kernels_leave_tensors_of_a_cpu_to_pytorch_and_refuse_to_train_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    with kernels.use(kernels.FUSED):
        kernels.require(cpu)  # in the interpreter
        monkeypatch.delenv("TRITON_INTERPRET")
        assert kernels.fused_for(torch.ones(1)) is None
        with pytest.raises(UserError, match=r"resources\.kernels=fused .* cpu"):
            kernels.require(cpu)
        kernels.require(torch.device("cuda"))
    kernels.require(cpu)
