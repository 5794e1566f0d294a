"""Methods: what learns, what is there in float, and that plain PEQA and ours are the same training."""

import importlib
import re
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from experiments.bench.cases import MODULES, Case, Setting, units
from experiments.bench.files import beside, learned
from experiments.bench.methods.peqa_plain import Plain
from experiments.bench.sizes import SIZES, empty_denoiser
from experiments.bench.training import Training, inputs_of
from quantbooth.quant.format import unpack
from quantbooth.quant.layers import quantized_layers

UNUSED = re.compile(r"transformer_blocks\.1\.attn\.(add_q_proj|norm_added_q)\.")
"""Queries of text in the last block of SD3, whose text goes nowhere."""
LIBRARIES = {"lora": ["peft"], "qlora": ["peft", "bitsandbytes"]}


def case_of(method: str, setting: Setting) -> Case:
    return units(setting, [method])[-1][-1]


def training_of(case: Case, seed: int = 0) -> Training:
    for library in LIBRARIES.get(case.method, []):
        pytest.importorskip(library)
    generator = torch.Generator().manual_seed(seed)
    denoiser: Any = empty_denoiser(case.setting.model).train()
    importlib.import_module(f"experiments.bench.methods.{MODULES[case.method]}").build_(denoiser, case, generator)
    if case.setting.checkpointing:
        denoiser.enable_gradient_checkpointing()
    return Training(denoiser, inputs_of(case, generator))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", MODULES)
@pytest.mark.parametrize("model", ["tiny", "tiny-sd3", "tiny-klein"])
@pytest.mark.chain
def test_a_step_changes_all_that_learns_and_nothing_else(model: str, method: str, checkpointing: bool) -> None:
    training = training_of(case_of(method, Setting(model, 8, checkpointing)))
    assert not any(tensor.is_meta for tensor in (*training.denoiser.parameters(), *training.denoiser.buffers()))
    before = {name: tensor.clone() for name, tensor in training.denoiser.state_dict().items()}
    training.step()
    training.step()  # a B of LoRA begins at 0, and its A has no gradient before B has moved
    changed = {name for name, tensor in training.denoiser.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in learned(training.denoiser) if not UNUSED.match(name)}
    assert (method == "floor") == (not changed)


def test_the_floor_passes_a_gradient_to_the_latents_and_forms_none_of_a_weight(tiny: Setting) -> None:
    training = training_of(Case(tiny, "floor"))
    training.loss().backward()
    assert training.inputs.sample.grad is not None
    assert all(parameter.grad is None for parameter in training.denoiser.parameters())


@pytest.mark.parametrize(("method", "ends"), [("quantbooth", 2), ("peqa_plain", 2)])
def test_quantized_methods_hold_no_float_weight_but_the_first_and_last(method: str, ends: int, tiny: Setting) -> None:
    denoiser = training_of(case_of(method, tiny)).denoiser
    floats = [name for name, tensor in beside(denoiser).items() if tensor.is_floating_point() and tensor.numel() > 512]
    assert floats == ["conv_in.weight", "conv_out.weight"][:ends]


def test_nf4_layers_are_wrapped_as_such_and_convolutions_stay_float(tiny: Setting) -> None:
    denoiser = training_of(Case(tiny, "qlora", 4)).denoiser
    adapters = {
        type(module).__name__ for name, module in denoiser.named_modules() if name.endswith(("to_q", "to_out.0"))
    }
    assert adapters == {"Linear4bit"}
    assert any(
        module.__module__.startswith("peft") for name, module in denoiser.named_modules() if name.endswith("to_q")
    )
    assert not any(type(module) is nn.Linear for name, module in denoiser.named_modules() if "lora" not in name)


def test_plain_peqa_and_ours_give_the_same_loss_and_gradients(tiny: Setting) -> None:
    """With the same codes; dL/dgain = s0 dL/dds, since s = s0 + ds = s0 * gain."""
    plain, ours = training_of(Case(tiny, "peqa_plain", 4)), training_of(Case(tiny, "quantbooth", 4, 1, 1))
    layers = dict(quantized_layers(ours.denoiser))
    twins = {name: module for name, module in plain.denoiser.named_modules() if isinstance(module, Plain)}
    assert layers.keys() == twins.keys()
    for name, twin in twins.items():
        layer = layers[name]
        twin.codes = unpack(layer.codes, 4, twin.codes[0].numel()).view(twin.codes.shape)
        torch.testing.assert_close(layer.scale, twin.scale.flatten())
    state = plain.denoiser.state_dict()
    with torch.no_grad():
        for name, tensor in ours.denoiser.named_parameters():
            if name in state:
                tensor.copy_(state[name])
    ours.inputs = plain.inputs
    losses = [training.loss() for training in (plain, ours)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for name, twin in twins.items():
        assert twin.delta.grad is not None
        expected = (twin.delta.grad * twin.scale).flatten()
        torch.testing.assert_close(layers[name].get_parameter("gain_out").grad, expected[None], rtol=1e-3, atol=1e-6)


def test_the_same_case_is_the_same_training(tiny: Setting) -> None:
    one, two = (training_of(Case(tiny, "quantbooth", 2, 3, 3)) for _ in range(2))
    assert torch.equal(one.loss(), two.loss())


def test_sets_are_mixed_in_the_batch(tiny: Setting) -> None:
    training = training_of(Case(tiny, "quantbooth_mixed_zones", 4, 3, 3))
    training.loss().backward()
    for _, layer in quantized_layers(training.denoiser):
        gradient = layer.get_parameter("gain_out").grad
        assert gradient is not None
        assert len(gradient) == 3
        assert bool(gradient.abs().sum(1).all())


def test_sdxl_is_given_what_it_asks_for_beside_the_text() -> None:
    case, denoiser = Case(Setting("sdxl", 32, False), "quantbooth", 4, 3, 3), Mock()
    inputs = inputs_of(case, torch.Generator().manual_seed(0))
    inputs.predict(denoiser, inputs.sample)
    (sample, t, text), added = denoiser.call_args.args, denoiser.call_args.kwargs["added_cond_kwargs"]
    assert sample is inputs.sample
    assert text.shape == (3, 77, 2048)
    assert added["text_embeds"].shape == (3, 1280)
    assert added["time_ids"].tolist() == [[256.0, 256.0, 0.0, 0.0, 256.0, 256.0]] * 3
    assert t.shape == (3,)


def test_a_loss_that_is_not_finite_is_refused(tiny: Setting) -> None:
    training = training_of(Case(tiny, "quantbooth", 4, 1, 1))
    training.inputs.target.fill_(torch.inf)
    with pytest.raises(RuntimeError, match="the loss must be finite, got inf"):
        training.step()


@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-klein"])
def test_layers_outside_of_blocks_stay_float_in_a_transformer(model: str) -> None:
    denoiser = training_of(Case(Setting(model, 8, False), "quantbooth", 4, 1, 1)).denoiser
    blocks = tuple(f"{name}." for name in SIZES[model].family.blocks(denoiser))  # type: ignore[union-attr]
    quantized = [name for name, _ in quantized_layers(denoiser)]
    assert quantized and all(name.startswith(blocks) for name in quantized if "modulation" not in name)
    floats = [name for name, module in denoiser.named_modules() if type(module) is nn.Linear]
    assert floats and not any(name.startswith(blocks) for name in floats)


@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-klein"])
def test_our_qlora_and_peft_adapt_the_same_layers(model: str) -> None:
    case = Case(Setting(model, 8, False), "qlora_packed", 4)
    ours = {name.rpartition(".")[0] for name in learned(training_of(case).denoiser)}
    theirs = learned(training_of(Case(case.setting, "lora")).denoiser)
    assert ours == {name.partition(".lora_")[0] for name in theirs}
