"""Latents and prompts: cached or not they are the same, cached prompts are no part of a state, none is none."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.encoding import CachedPrompt, LazyLatents, cache_latents
from quantbooth.tuning.optimizers import OPTIMIZERS, optimizer_factory


def halved(pictures: Tensor) -> Tensor:
    return pictures[:, :, ::2, ::2]


def test_cached_latents_are_those_encoded_on_access(generator: torch.Generator) -> None:
    pictures = torch.rand(4, 3, 8, 8, generator=generator)
    latents = LazyLatents(halved, pictures)
    assert torch.equal(cache_latents(latents), halved(pictures))
    assert torch.equal(latents[torch.tensor([2, 0, 2])], halved(pictures[[2, 0, 2]]))
    assert len(cache_latents(LazyLatents(halved, pictures[:0]))) == 0


def test_a_cached_prompt_moves_with_its_module_and_is_no_part_of_its_state() -> None:
    text = Conditioning(torch.ones(1, 2, 3), {"pooled": torch.zeros(1, 4)})
    prompt = CachedPrompt(text)
    assert prompt.state_dict() == {}
    assert {name: tensor.dtype for name, tensor in prompt.double()().tensors.items()} == {
        "tokens": torch.float64,
        "pooled": torch.float64,
    }


@pytest.mark.parametrize(
    "options",
    [
        *({"lr": -1.0}, {"lr": 0.1, "steps": 3}, {"lr": "fast"}),
        *({"lr": 0.1, "capturable": True}, {"lr": 0.1, "differentiable": True}),  # refused by its step
    ],
    ids=str,
)
def test_options_that_an_optimizer_refuses_are_refused_before_there_is_a_parameter(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="adamw"):
        optimizer_factory({"name": "adamw", **options})


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_that_is_offered_trains_groups_of_vectors_at_rates_of_their_own(name: str) -> None:
    """Gains and shifts are two groups."""
    gains, shifts = (torch.ones(3, requires_grad=True) for _ in range(2))
    made = optimizer_factory({"name": name, "lr": 0.1})([{"params": [gains]}, {"params": [shifts], "lr": 0.2}])
    (gains.sum() + shifts.sum()).backward()
    made.step()
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.2]
    assert all((one < 1).all() for one in (gains, shifts))


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "muon", "optimizer"])
def test_one_that_cannot_train_groups_of_vectors_is_not_offered(name: str) -> None:
    with pytest.raises(UserError, match=rf"must be one of adadelta, .*got '{name}'") as caught:
        optimizer_factory({"name": name, "lr": 0.1})
    assert f" {name}," not in str(caught.value)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_fused_optimizer_leaves_float16_to_lightning_which_clips_and_leaves_steps_out(name: str) -> None:
    """A GPU's are fused."""
    parameter = torch.zeros(1, requires_grad=True)
    made = optimizer_factory({"name": name, "lr": 0.1, "fused": True})([{"params": [parameter]}])
    precision = MixedPrecision("16-mixed", "cpu")
    assert precision.scaler is not None
    parameter.grad = torch.full((1,), 3.0)
    precision.clip_gradients(made, 1.0)
    assert float(parameter.grad) == pytest.approx(1.0)
    steps = []
    made.register_step_post_hook(lambda *_: steps.append(1))
    for gradient in (torch.inf, 1.0):
        parameter.grad = precision.scaler.scale(torch.full((1,), gradient))
        precision.scaler.step(made)
        precision.scaler.update()
    assert steps == [1]
