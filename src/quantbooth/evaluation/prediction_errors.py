"""Prediction errors: held-out (x_t, t, c) in, one row of errors per triple out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import mean_square, predict, spread_timesteps
from quantbooth.runtime.draws import batches, generator_for
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import Zones

__all__ = ["Triple", "draw_triples", "measure_predictions"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Triple:
    """A held-out picture and prompt, noised to a timestep of a zone.

    The noise depends on (seed, zone, place) only.
    """

    zone: str
    place: int
    t: int
    seed: int

    def noise(self, shape: Sequence[int]) -> Float[Tensor, "c h w"]:
        return torch.randn(tuple(shape), generator=generator_for(self.seed, self.place, f"noise {self.zone}"))


def draw_triples(zones: Zones, count: int, seed: int) -> tuple[Triple, ...]:
    """Return `count` triples per zone, evenly spread over its timesteps, with places 0 .. count - 1 in random order."""
    found = []
    for zone in zones.zones:
        draw = generator_for(seed, 0, f"triples {zone.name}")
        times, indices = spread_timesteps(zone, count, draw), torch.randperm(count, generator=draw)
        pairs = zip(indices.tolist(), times.tolist(), strict=True)
        found += [Triple(zone.name, place, t, seed) for place, t in pairs]
    return tuple(found)


def measure_predictions(
    base: Base,
    triples: Sequence[Triple],
    texts: Sequence[str],
    latents: Float[Tensor, "n c h w"],
    reference: Float[Tensor, "m c h w"] | None,
    loop: Loop,
    batch: int,
    what: str,
) -> tuple[Rows, Float[Tensor, "m c h w"]]:
    """Return a row of errors per triple, compared with those of the float denoiser, and the predictions.

    `float_error` and `error` are the mean squared errors of the float prediction and of this denoiser's against the
    target, `deviation` is the mean square of their difference.

    Args:
        base: its denoiser predicts.
        triples: the inputs.
        texts: by the place of a triple.
        latents: x_0, by the place of a triple.
        reference: the float denoiser's prediction of each triple; None if this denoiser is the float one.
        loop: runs the batches.
        batch: triples per batch.
        what: text of the progress bar.
    """
    predictions: list[Tensor] = []

    def rows(indices: list[int]) -> Rows:
        chosen = [triples[place] for place in indices]
        x_0 = latents[[triple.place for triple in chosen]].to(loop.device)
        noise = torch.stack([triple.noise(x_0.shape[1:]) for triple in chosen]).to(x_0)
        t = torch.tensor([triple.t for triple in chosen], device=loop.device)
        conditioning = base.encode_prompts([texts[triple.place] for triple in chosen])
        predicted = predict(base, base.schedule, x_0, noise, t, conditioning)
        expected = predicted if reference is None else reference[indices].to(loop.device)
        target = base.schedule.target(x_0, noise, t)
        columns = {
            "float_error": mean_square(expected, target).tolist(),
            "error": mean_square(predicted, target).tolist(),
            "deviation": mean_square(predicted, expected).tolist(),
        }
        predictions.append(predicted.cpu())
        about = [{"zone": one.zone, "place": one.place, "t": one.t, "text": texts[one.place]} for one in chosen]
        return [row | {name: values[k] for name, values in columns.items()} for k, row in enumerate(about)]

    loop.place(base.denoiser, *base.text_encoders)
    found = loop.map(rows, batches(len(triples), batch), what)
    return list(chain.from_iterable(found)), torch.cat(predictions)
