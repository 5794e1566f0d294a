"""Pre-training: draws by (seed, step), all trainable weights change, the encoder does not."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.models import untrained_base, untrained_flow_base
from quantbooth_toyworld.pretraining import BaseTraining, DecoderTraining, Pool, Recipe, Weighting, render_pool

RECIPE = Recipe(steps=100, batch=4, learning_rate=1e-3, warmup=10, hold=0.5, seed=5)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return render_pool(12, seed=0, workers=0)


@pytest.fixture(scope="module")
def small_base(small_base: Base) -> Base:
    """The small base with the words of all captions, so that each is read whole."""
    return replace(small_base, encoders=untrained_base(words(), seed=0).encoders)


@pytest.fixture
def training(small_base: Base, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> BaseTraining:
    """On copies of the parts that learn, without a trainer."""
    base = small_base.with_denoiser(deepcopy(small_base.denoiser)).with_text_encoder(deepcopy(small_base.text_encoder))
    latents = torch.randn(12, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    made = BaseTraining(base, latents, pool, RECIPE)
    monkeypatch.setattr(made, "log", lambda *_, **__: None)
    made.on_train_start()
    return made


def at_step(made: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(type(made), "global_step", step)
    return made


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [RECIPE.rate_at(step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:51]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[100] == pytest.approx(0.03)


def test_a_step_draws_the_same_whenever_it_is_taken(training: BaseTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [float(at_step(training, step, monkeypatch).training_step(0).detach()) for step in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


def test_denoiser_and_text_encoder_learn_and_the_autoencoder_does_not(training: BaseTraining) -> None:
    training.training_step(0).backward()
    for part in (training.base.denoiser, training.base.text_encoder):
        silent = [name for name, parameter in part.named_parameters() if parameter.grad is None]
        assert silent == []
    learning = {id(parameter) for parameter in training.trained.parameters()}
    assert not learning & {id(parameter) for parameter in training.base.autoencoder.parameters()}


def test_the_loss_is_the_weighted_mean_error(training: BaseTraining) -> None:
    """Against a plain loop over samples, each alone."""
    loss = training.training_step(0)
    draw = training.draw("base")
    rows = torch.randint(12, (4,), generator=draw)
    t = torch.randint(1000, (4,), generator=draw)
    noise = torch.randn(4, 24, 8, 8, generator=draw)
    captions = training.captions(rows)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[t]
    total = 0.0
    for i, a in enumerate(alpha_bar.tolist()):
        x_t = a**0.5 * training.latents[rows[i]] + (1 - a) ** 0.5 * noise[i]
        text = training.base.encode_prompts([captions[i]]).tokens
        guess = training.base.denoiser(x_t[None], t[i], encoder_hidden_states=text).sample[0]
        total += min(1 / a, 8.0) * float((guess - noise[i]).square().mean().detach()) / 4
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


@pytest.fixture
def flow(small_base: Base, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> BaseTraining:
    """On an untrained flow base, without a trainer."""
    base = untrained_flow_base(words(), 0, small_base.autoencoder)
    latents = torch.randn(12, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    weighting = Weighting(0.5, (330, 800), 1.0)
    made = BaseTraining(base, latents, pool, RECIPE, weighting)
    monkeypatch.setattr(made, "log", lambda *_, **__: None)
    made.on_train_start()
    return made


def test_the_transformer_and_both_text_encoders_learn(flow: BaseTraining) -> None:
    flow.training_step(0).backward()
    silent = [name for name, parameter in flow.trained.named_parameters() if parameter.grad is None]
    assert silent == []
    assert {name for name, _ in flow.trained.named_children()} == {"denoiser", "text_encoder", "text_encoder_2"}


def test_the_loss_of_a_flow_is_the_plain_mean_error_of_the_velocity(flow: BaseTraining) -> None:
    """Against a plain loop over samples; diffusers' transformer reads all 256 tokens of zeros."""
    loss = flow.training_step(0)
    draw = flow.draw("base")
    rows = torch.randint(12, (4,), generator=draw)
    t = flow.timesteps(4, draw)
    noise = torch.randn(4, 24, 8, 8, generator=draw)
    captions = flow.captions(rows)
    total = 0.0
    for i, sigma in enumerate(((t + 1) / 1000).tolist()):
        x_0, found = flow.latents[rows[i]], flow.base.encode_prompts([captions[i]])
        tokens = torch.nn.functional.pad(found.tokens, (0, 0, 0, 256))
        x_t = (1 - sigma) * x_0 + sigma * noise[i]
        guess = flow.base.denoiser(x_t[None], tokens, found.extra["pooled"], torch.tensor([1000 * sigma])).sample[0]
        total += float((guess - (noise[i] - x_0)).square().mean().detach()) / 4
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


def test_a_step_in_mixed_precision_is_near_one_in_float(flow: BaseTraining) -> None:
    whole = flow.training_step(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = flow.training_step(0)
    half.backward()
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.02)
    assert float(half.detach()) != float(whole.detach())


def test_about_every_tenth_caption_is_empty_and_no_two_steps_speak_alike(
    training: BaseTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(12).repeat(10)
    texts = [at_step(training, step, monkeypatch).captions(rows) for step in range(10)]
    empty = np.mean([text == "" for step in texts for text in step])
    assert 0.07 < empty < 0.13
    assert len({tuple(step) for step in texts}) == 10
    assert at_step(training, 3, monkeypatch).captions(rows) == texts[3]


def test_a_decoder_learns_to_undo_an_encoder_that_stays(
    small_base: Base, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = replace(small_base, autoencoder=deepcopy(small_base.autoencoder).requires_grad_(True))
    training = DecoderTraining(base, pool, RECIPE)
    monkeypatch.setattr(training, "log", lambda *_, **__: None)
    training.training_step(0).backward()
    assert all(parameter.grad is not None for parameter in base.autoencoder.decoder.parameters())
    assert all(parameter.grad is None for parameter in base.autoencoder.encoder.parameters())
    optimizer = training.configure_optimizers()["optimizer"]
    learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in base.autoencoder.decoder.parameters()}


def test_a_further_round_falls_from_its_hold_on() -> None:
    rates = [replace(RECIPE, hold=0.2).rate_at(step) for step in range(101)]
    assert set(rates[10:21]) == {1.0}
    assert rates[60] == pytest.approx(0.03 + 0.97 / 2)
    assert rates[100] == pytest.approx(0.03)


def test_focus_draws_its_share_from_where_pictures_are_decided(small_base: Base, pool: Pool) -> None:
    """With focus f the share inside [150, 750) is f + 0.6 (1 - f), and both ends are drawn still."""
    for focus in (0.0, 0.5, 1.0):
        stage = BaseTraining(small_base, torch.zeros(12, 24, 8, 8), pool, RECIPE, Weighting(focus))
        t = stage.timesteps(20_000, torch.Generator().manual_seed(1))
        inside = ((t >= 150) & (t < 750)).float().mean()
        assert float(inside) == pytest.approx(focus + 0.6 * (1 - focus), abs=0.015)
        assert (int(t.min()), int(t.max())) == ((150, 749) if focus == 1.0 else (0, 999))
