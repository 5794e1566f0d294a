"""Denoisers that another package quantized: read as they are, with gains whose gradients are a float twin's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantbooth.diffusion.pretrained import empty_denoiser, file_bytes, read_denoiser
from quantbooth.quant import scale_sets
from quantbooth.quant.scale_sets import Parts
from quantbooth.quant.stored import stored_layers
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import read_snapshot, write_snapshot
from stored_bases import FORMATS, WITHOUT_GRADIENT, dequantized, write_stored

TOLERANCE = {"nf4": 1e-4, "sdnq": 1e-4, "gguf": 2e-3, "torchao_int8": 0.02, "torchao_int4": 0.02, "int8": 0.05}
"""Of outputs and gradients, against the largest of a layer.

nf4 and sdnq compute in float32 here; diffusers rounds GGUF's weights to float16, torchao computes in the bfloat16 of
its scales, and bitsandbytes rounds inputs to 8 bits too, which its gradient passes over.
"""


@pytest.fixture(scope="module", params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in a format; nobody writes into it."""
    return write_stored(tmp_path_factory.mktemp("base"), kind)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x, words = torch.randn(3, 24, 8, 8, generator=draw), torch.randn(3, 26, 128, generator=draw)
    return x, torch.tensor([10, 400, 900]), words


def predicted(unet: Any) -> Tensor:
    found: Tensor = unet(*inputs()).sample
    return found


def with_sets(unet: nn.Module, index: list[int], parts: Parts) -> dict[str, Tensor]:
    """Attach two sets that were moved from their start, and return them."""
    scale_sets.attach_(unet, 2, None, parts).choose(torch.tensor(index))
    draw = torch.Generator().manual_seed(4)
    for numbers in (one for each in scale_sets.parameters(unet).values() for one in each):
        numbers.data += 0.1 * torch.randn(numbers.shape, generator=draw)
    return scale_sets.read(unet)


def twin_of(folder: Path, unet: nn.Module, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """Return a float denoiser, and its weights, those of the stored layers dequantized."""
    layers = dict(stored_layers(unet))
    state = {
        name: dequantized(layers[name.rpartition(".")[0]], kind)
        if name.endswith(".weight") and name.rpartition(".")[0] in layers
        else unet.state_dict()[name].float()
        for name in empty_denoiser(folder).state_dict()
    }
    twin = empty_denoiser(folder)
    twin.load_state_dict(state, assign=True)
    return twin.eval().requires_grad_(False), state


def test_a_denoiser_keeps_its_codes_and_computes_as_its_dequantized_weights_do(folder: Path, kind: str) -> None:
    unet = read_denoiser(folder)
    layers = dict(stored_layers(unet))
    assert len(layers) >= 13
    assert not any(one.requires_grad or one.is_meta for one in unet.parameters())
    twin, _ = twin_of(folder, unet, kind)
    with torch.no_grad():
        ours, theirs = predicted(unet), predicted(twin)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[kind] * float(theirs.abs().max()))
    assert file_bytes(folder) < 4 * sum(one.numel() for one in twin.parameters())


def test_gains_of_1_give_the_stored_model_bit_for_bit_in_training_too(folder: Path) -> None:
    unet = read_denoiser(folder)
    with torch.no_grad():
        alone = predicted(unet)
    scale_sets.attach_(unet, 2, None, Parts(True, True, True)).choose(torch.tensor([0, 1, 2]))
    assert torch.equal(predicted(unet), alone)
    with torch.no_grad():
        assert torch.equal(predicted(unet), alone)


def effective(state: dict[str, Tensor], sets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float weights of set 1: g_out W g_in and b + shift."""
    found = dict(state)
    for name, rows in sets.items():
        layer, _, part = name.rpartition(".")
        key = f"{layer}.{'bias' if part == 'shift' else 'weight'}"
        weight = found[key]
        if part == "shift":
            found[key] = weight + rows[0]
        elif part == "gain_out":
            found[key] = weight * rows[0].view(-1, *[1] * (weight.ndim - 1))
        else:
            found[key] = weight * rows[0].view(-1, *[1] * (weight.ndim - 2))
    return found


def test_gradients_of_gains_are_those_of_a_dequantized_twin(folder: Path, kind: str) -> None:
    unet = read_denoiser(folder)
    twin, state = twin_of(folder, unet, kind)
    sets = {name: rows.requires_grad_() for name, rows in with_sets(unet, [1, 1, 1], Parts(True, True)).items()}
    goal = torch.randn(3, 24, 8, 8, generator=torch.Generator().manual_seed(5))
    (predicted(unet) * goal).sum().backward()
    (functional_call(twin, effective(state, sets), inputs()).sample * goal).sum().backward()
    learned = {name: one for name, one in unet.named_parameters() if one.requires_grad}
    assert list(learned) == list(sets)
    for name, one in learned.items():
        expected = sets[name].grad
        assert one.grad is not None and expected is not None
        bound = TOLERANCE[kind] * float(expected.abs().max()) + 1e-7
        assert float((one.grad - expected).abs().max()) <= bound, name


def test_a_batch_mixes_sets_and_what_was_written_reads_back_the_same(folder: Path, kind: str, tmp_path: Path) -> None:
    unet = read_denoiser(folder)
    with torch.no_grad():
        alone = predicted(unet)
        sets = with_sets(unet, [1, 0, 2], Parts(True, True, True))
        tuned = predicted(unet)
        write_snapshot(tmp_path, 1, sets)
        again = read_denoiser(folder)
        selection = scale_sets.attach_(again, 2, None, Parts(True, True, True))
        scale_sets.load_(again, read_snapshot(tmp_path, 1))
        selection.choose(torch.tensor([1, 0, 2]))
        assert torch.equal(predicted(again), tuned)
        selection.choose(torch.tensor([2, 2, 2]))
        of_one = predicted(again)
    close = TOLERANCE[kind] * float(alone.abs().max())
    assert float((tuned[1] - alone[1]).abs().max()) <= close
    assert float((tuned[2] - of_one[2]).abs().max()) <= close
    assert float((tuned[0] - alone[0]).abs().max()) > close


def test_checkpointed_blocks_give_the_same_gradients(folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = read_denoiser(folder)
        with_sets(unet, [1, 0, 2], Parts(True))
        if checkpointing:
            unet.enable_gradient_checkpointing()
        predicted(unet).square().sum().backward()
        gradients.append([one.grad for one in unet.parameters() if one.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", WITHOUT_GRADIENT, indirect=True)
def test_layers_without_gradients_of_their_inputs_draw_and_are_refused_in_training(folder: Path) -> None:
    unet = read_denoiser(folder)
    with_sets(unet, [1, 0, 2], Parts())
    with torch.no_grad():
        assert predicted(unet).isfinite().all()
    with pytest.raises(UserError, match=r"quant=as_stored trains through .* Linear with a weight of|SDNQLinear"):
        predicted(unet)
