"""Run the probes of a base under Lightning's predict loop: prompt swaps, forecasts of x0, the worth of the text.

Probes: what a base decides at which timestep, by swapping prompts, by forecasts, by what the text is worth.

Probing under Lightning's predict loop: rows of what swaps change, how pictures come to be, what a text is worth.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from quantbooth.data.questions import Contrast, Question
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.evaluation.scorer import Scorer

__all__ = ["Forecasts", "Swaps", "WorthOfText", "forecasts", "swapped", "worth_of_text"]


@torch.no_grad()
def swapped(
    base: Base,
    sampler: Sampler,
    first: Sequence[str],
    second: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    switch: Int[Tensor, " b"],
) -> Float[Tensor, "b 3 h w"]:
    """Images drawn from `first` while t >= switch and from `second` below, each sample with a switch of its own."""
    before, after = base.encode_prompts(first), base.encode_prompts(second)
    border = switch.to(before.device)
    return base.decode_latents(sampler.denoise(base, lambda t: Conditioning.where(t >= border, before, after), noise))


@torch.no_grad()
def forecasts(
    base: Base, sampler: Sampler, texts: Sequence[str], noise: Float[Tensor, "b c hl wl"]
) -> tuple[Float[Tensor, " steps"], Float[Tensor, "steps b 3 h w"], Float[Tensor, "b c hl wl"]]:
    """The picture that each step's prediction stands for (decoded x_0 hat), and the finished latents.

    Returns:
        The sampler's timesteps, falling; the forecast at each; the latents of the finished pictures.
    """
    schedule, conditioning = base.schedule, base.encode_prompts(texts)
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(t: Tensor, x_t: Tensor, predicted: Tensor) -> None:
        seen.append((t, base.decode_latents(schedule.origin(x_t, predicted, t)).cpu()))

    finished = sampler.denoise(base, lambda _t: conditioning, noise, watch)
    return torch.stack([t.float().cpu() for t, _ in seen]), torch.stack([picture for _, picture in seen]), finished


@torch.no_grad()
def worth_of_text(
    base: Base,
    x_0: Float[Tensor, "b c hl wl"],
    texts: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    t: Int[Tensor, " b"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Per sample the denoising error given its text, and given the empty one: what the text is still worth at t."""
    schedule = base.schedule
    given, empty = base.encode_prompts(texts), base.encode_prompts([""] * len(texts))
    x_0, noise, t = x_0.to(given.tokens), noise.to(given.tokens), t.to(given.device)
    with_text, without = (denoising_error(base, schedule, x_0, noise, t, each) for each in (given, empty))
    return with_text, without


PROMPT = "prompt"
"""The attribute every scorer can judge: which of both sentences the picture is closer to."""

Rows = list[dict[str, Any]]


class _Probe(LightningModule):
    """What the three share: a base whose parts move together, and rows."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base
        self.parts = base.networks  # so that all move together
        self.rows: Rows = []

    def noise(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "b c h w"]:
        return initial_noise(prompts, seeds, self.base.latent_shape)


class Swaps(_Probe):
    """One row per pair, swap and attribute: is the picture as the first sentence asked, or as the second.

    Item i is pair i // len(switches), swapped at switches[i % len(switches)].
    """

    def __init__(
        self, base: Base, sampler: Sampler, contrasts: Sequence[Contrast], switches: Sequence[int], scorer: Scorer
    ) -> None:
        super().__init__(base)
        self.sampler, self.contrasts, self.switches, self.scorer = sampler, tuple(contrasts), tuple(switches), scorer
        self.judges = nn.ModuleList(judge for judge in (scorer.encoder, scorer.oracle) if isinstance(judge, nn.Module))

    def predict_step(self, places: list[int]) -> int:
        pairs = [self.contrasts[place // len(self.switches)] for place in places]
        switch = torch.tensor([self.switches[place % len(self.switches)] for place in places])
        first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
        noise = self.noise(first, [pair.seed for pair in pairs])
        pictures = swapped(self.base, self.sampler, first, second, noise, switch)
        keys = [(place // len(self.switches), int(t)) for place, t in zip(places, switch, strict=True)]
        self._closer(keys, pictures, first, second)
        self._seen(keys, pictures, pairs)
        return len(places)

    def _closer(
        self, keys: list[tuple[int, int]], pictures: Tensor, first: Sequence[str], second: Sequence[str]
    ) -> None:
        encoder = self.scorer.encoder
        features = encoder.images(pictures)
        a, b = ((features * encoder.texts(list(texts))).sum(-1) for texts in (first, second))
        for key, before in zip(keys, (a > b).tolist(), strict=True):
            self._note(key, PROMPT, before, not before)

    def _seen(self, keys: list[tuple[int, int]], pictures: Tensor, pairs: Sequence[Contrast]) -> None:
        if self.scorer.oracle is None:
            return
        names, found = self.scorer.oracle.names, self.scorer.oracle.probabilities(pictures)
        for row, (key, pair) in enumerate(zip(keys, pairs, strict=True)):
            for attribute, (before, after) in pair.attributes.items():
                guess = names[attribute][int(found[attribute][row].argmax())]
                self._note(key, attribute, guess == before, guess == after)

    def _note(self, key: tuple[int, int], attribute: str, first: bool, second: bool) -> None:
        self.rows.append({"pair": key[0], "t": key[1], "attribute": attribute, "first": first, "second": second})


class Forecasts(_Probe):
    """One row per question and step: how far the forecast is from the finished picture, and how far it moves."""

    def __init__(self, base: Base, sampler: Sampler, questions: Sequence[Question]) -> None:
        super().__init__(base)
        self.sampler, self.questions = sampler, tuple(questions)
        self.finished: list[Tensor] = []

    def predict_step(self, places: list[int]) -> int:
        chosen = [self.questions[place] for place in places]
        texts = [question.text for question in chosen]
        noise = self.noise(texts, [question.seed for question in chosen])
        timesteps, pictures, latents = forecasts(self.base, self.sampler, texts, noise)
        self.finished.append(latents.cpu())
        distance = _root_mean_square(pictures - pictures[-1])
        moved = [_root_mean_square(after - before) for before, after in pairwise(pictures)]
        spans = [float(a - b) for a, b in pairwise(timesteps.tolist())]
        for step, t in enumerate(timesteps.tolist()):
            for row, place in enumerate(places):
                change = float(moved[step][row]) / spans[step] * 100 if step < len(spans) else float("nan")
                self.rows.append({"question": place, "t": t, "distance": float(distance[step, row]), "change": change})
        return len(places)


class WorthOfText(_Probe):
    """One row per question and timestep: the denoising error with the question's text, and with the empty one.

    Item i is question i // len(grid) at t = grid[i % len(grid)]; its noise is the same at every t.
    """

    def __init__(
        self, base: Base, x_0: Float[Tensor, "n c h w"], questions: Sequence[Question], grid: Sequence[int]
    ) -> None:
        super().__init__(base)
        self.x_0, self.questions, self.grid = x_0, tuple(questions), tuple(grid)

    def predict_step(self, places: list[int]) -> int:
        rows = [place // len(self.grid) for place in places]
        t: Int[Tensor, " b"] = torch.tensor([self.grid[place % len(self.grid)] for place in places])
        texts = [self.questions[row].text for row in rows]
        noise = self.noise(texts, [self.questions[row].seed for row in rows])
        told, untold = worth_of_text(self.base, self.x_0[rows], texts, noise, t)
        for row, step, a, b in zip(rows, t.tolist(), told.tolist(), untold.tolist(), strict=True):
            self.rows.append({"question": row, "t": step, "with_text": a, "without": b})
        return len(places)


def _root_mean_square(pictures: Float[Tensor, "... 3 h w"]) -> Float[Tensor, "..."]:
    return pictures.square().mean(dim=(-3, -2, -1)).sqrt()
