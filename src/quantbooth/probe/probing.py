"""Probes of a base: prompt swaps, x_0 predictions, and the gain from the text, in batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.data.questions import Contrast, Question
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.evaluation.scorer import Scorer
from quantbooth.runtime.draws import batches
from quantbooth.runtime.lightning import Loop
from quantbooth.runtime.precision import full_precision

__all__ = ["Probes", "x0_predictions", "prompt_swap", "text_gain"]


@torch.no_grad()
def prompt_swap(
    base: Base,
    sampler: Sampler,
    first: Sequence[str],
    second: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    switch: Int[Tensor, " b"],
) -> Float[Tensor, "b 3 h w"]:
    """Generate images with prompt `first` while t >= switch and `second` below; each sample has its own switch."""
    before, after = base.encode_prompts(first), base.encode_prompts(second)
    border = switch.to(before.device)
    return base.decode_latents(sampler.denoise(base, lambda t: Conditioning.where(t >= border, before, after), noise))


@torch.no_grad()
def x0_predictions(
    base: Base, sampler: Sampler, texts: Sequence[str], noise: Float[Tensor, "b c hl wl"]
) -> tuple[Float[Tensor, " steps"], Float[Tensor, "steps b 3 h w"], Float[Tensor, "b c hl wl"]]:
    """Return the decoded prediction of x_0 at each step, and the final latents.

    Returns:
        The sampler's timesteps, descending; the decoded x_0 prediction at each; the final latents.
    """
    schedule, conditioning = base.schedule, base.encode_prompts(texts)
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(t: Tensor, x_t: Tensor, predicted: Tensor) -> None:
        seen.append((t, base.decode_latents(schedule.origin(x_t, predicted, t)).cpu()))

    finished = sampler.denoise(base, lambda _t: conditioning, noise, watch)
    return torch.stack([t.float().cpu() for t, _ in seen]), torch.stack([picture for _, picture in seen]), finished


@torch.no_grad()
def text_gain(
    base: Base,
    x_0: Float[Tensor, "b c hl wl"],
    texts: Sequence[str],
    noise: Float[Tensor, "b c hl wl"],
    t: Int[Tensor, " b"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the denoising error of each sample with its text and with the empty one: the gain from the text at t."""
    schedule = base.schedule
    given, empty = base.encode_prompts(texts), base.encode_prompts([""] * len(texts))
    x_0, noise, t = x_0.to(given.tokens), noise.to(given.tokens), t.to(given.device)
    with_text, without = (denoising_error(base, schedule, x_0, noise, t, each) for each in (given, empty))
    return with_text, without


PROMPT = "prompt"
"""The attribute that every scorer can judge: which prompt the picture is closer to."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Probes:
    """The probes of one base; each returns rows of a table.

    Attributes:
        base: float.
        sampler: the sampler.
        loop: runs the batches.
        batch: samples per batch.
    """

    base: Base
    sampler: Sampler
    loop: Loop
    batch: int

    def prompt_swaps(self, contrasts: Sequence[Contrast], switches: Sequence[int], scorer: Scorer) -> Rows:
        """Return a row per pair, swap and attribute: does the picture match the first prompt, does it match the second.

        Sample i is pair i // len(switches), swapped at switches[i % len(switches)].
        """
        self.loop.place(*(judge for judge in (scorer.encoder, scorer.oracle) if isinstance(judge, nn.Module)))

        def rows(indices: list[int]) -> Rows:
            keys = [(index // len(switches), switches[index % len(switches)]) for index in indices]
            pairs = [contrasts[pair] for pair, _ in keys]
            first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
            noise = self._noise(first, [pair.seed for pair in pairs])
            pictures = prompt_swap(self.base, self.sampler, first, second, noise, torch.tensor([t for _, t in keys]))
            closer = _closer(scorer, pictures, first, second)
            return [
                {"pair": pair, "t": t, "attribute": attribute, "first": one, "second": other}
                for index, attribute, one, other in [*closer, *_seen(scorer, pictures, pairs)]
                for pair, t in [keys[index]]
            ]

        return self._run(rows, len(contrasts) * len(switches), "swapping prompts")

    def x0_predictions(self, questions: Sequence[Question]) -> tuple[Rows, Float[Tensor, "n c h w"]]:
        """Return a row per question and step, and the final latents.

        A row has the distance of the predicted picture to the final one, and its change to the next step.
        """
        finished: list[Tensor] = []

        def rows(indices: list[int]) -> Rows:
            texts = [questions[index].text for index in indices]
            noise = self._noise(texts, [questions[index].seed for index in indices])
            timesteps, pictures, latents = x0_predictions(self.base, self.sampler, texts, noise)
            finished.append(latents.cpu())
            return _moves(indices, timesteps, pictures)

        return self._run(rows, len(questions), "predicting x0"), torch.cat(finished)

    def text_gain(self, x_0: Float[Tensor, "n c h w"], questions: Sequence[Question], grid: Sequence[int]) -> Rows:
        """Return a row per question and timestep: the denoising error with the question's text, and with the empty one.

        Sample i is question i // len(grid) at t = grid[i % len(grid)]; its noise is the same at every t.
        """

        def rows(indices: list[int]) -> Rows:
            chosen, t = [index // len(grid) for index in indices], [grid[index % len(grid)] for index in indices]
            texts = [questions[row].text for row in chosen]
            noise = self._noise(texts, [questions[row].seed for row in chosen])
            errors = text_gain(self.base, x_0[chosen], texts, noise, torch.tensor(t))
            return [
                {"question": row, "t": step, "with_text": a, "without": b}
                for row, step, a, b in zip(chosen, t, *(error.tolist() for error in errors), strict=True)
            ]

        return self._run(rows, len(questions) * len(grid), "denoising with and without text")

    def _run(self, rows: Callable[[list[int]], Rows], count: int, what: str) -> Rows:
        self.loop.place(self.base.networks)
        return list(chain.from_iterable(self.loop.map(rows, batches(count, self.batch), what)))

    def _noise(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "b c h w"]:
        return initial_noise(prompts, seeds, self.base.latent_shape)


Answer = tuple[int, str, bool, bool]
"""(index in the batch, attribute, matches the first prompt, matches the second)."""


def _closer(scorer: Scorer, pictures: Tensor, first: Sequence[str], second: Sequence[str]) -> list[Answer]:
    with full_precision(pictures.device):
        features = scorer.encoder.images(pictures)
        a, b = ((features * scorer.encoder.texts(list(texts))).sum(-1) for texts in (first, second))
    return [(index, PROMPT, before, not before) for index, before in enumerate((a > b).tolist())]


def _seen(scorer: Scorer, pictures: Tensor, pairs: Sequence[Contrast]) -> list[Answer]:
    if scorer.oracle is None:
        return []
    with full_precision(pictures.device):
        names, found = scorer.oracle.names, scorer.oracle.probabilities(pictures)
    answers, best = [], {attribute: values.argmax(dim=1).tolist() for attribute, values in found.items()}
    for index, pair in enumerate(pairs):
        for attribute, (before, after) in pair.attributes.items():
            guess = names[attribute][best[attribute][index]]
            answers.append((index, attribute, guess == before, guess == after))
    return answers


def _moves(
    indices: Sequence[int], timesteps: Float[Tensor, " steps"], pictures: Float[Tensor, "steps b 3 h w"]
) -> Rows:
    """Return per step and picture the distance to the last step's, and the change to the next per 100 timesteps."""
    distance = _root_mean_square(pictures - pictures[-1])
    moved = [_root_mean_square(after - before) for before, after in pairwise(pictures)]
    spans = [float(a - b) for a, b in pairwise(timesteps.tolist())]
    rows = []
    for step, t in enumerate(timesteps.tolist()):
        for row, index in enumerate(indices):
            change = float(moved[step][row]) / spans[step] * 100 if step < len(spans) else float("nan")
            rows.append({"question": index, "t": t, "distance": float(distance[step, row]), "change": change})
    return rows


def _root_mean_square(pictures: Float[Tensor, "... 3 h w"]) -> Float[Tensor, "..."]:
    return pictures.square().mean(dim=(-3, -2, -1)).sqrt()
