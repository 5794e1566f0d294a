"""Prediction errors under Lightning's predict loop: held-out (x_t, t, c) in, one row of errors each out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import mean_square, predict, spread_timesteps
from quantbooth.runtime.draws import generator_for
from quantbooth.timesteps.zones import Zones

__all__ = ["PredictionErrors", "Triple", "draw_triples"]


@dataclass(frozen=True)
class Triple:
    """Which held-out picture and sentence, noised to which timestep of which zone.

    Noise is decided by (seed, zone, place) alone.
    """

    zone: str
    place: int
    t: int
    seed: int

    def noise(self, shape: Sequence[int]) -> Float[Tensor, "c h w"]:
        return torch.randn(tuple(shape), generator=generator_for(self.seed, self.place, f"noise {self.zone}"))


def draw_triples(zones: Zones, count: int, seed: int) -> tuple[Triple, ...]:
    """`count` triples in each zone, evenly spread over its timesteps: places 0 .. count - 1 in an order of its own."""
    found = []
    for zone in zones.zones:
        draw = generator_for(seed, 0, f"triples {zone.name}")
        times, places = spread_timesteps(zone, count, draw), torch.randperm(count, generator=draw)
        pairs = zip(places.tolist(), times.tolist(), strict=True)
        found += [Triple(zone.name, place, t, seed) for place, t in pairs]
    return tuple(found)


class PredictionErrors(LightningModule):
    """Errors of a base's denoiser beside those of the float denoiser it was made from.

    `float_error` and `error` are the mean squared errors of the float prediction and of this denoiser's against the
    target, `deviation` is the mean square of their difference. Without `reference` (the float denoiser's prediction of
    each triple) this denoiser is the reference itself. `predicted` gathers this denoiser's predictions in the order of
    the triples.
    """

    def __init__(
        self,
        base: Base,
        triples: Sequence[Triple],
        texts: Sequence[str],
        latents: Float[Tensor, "n c h w"],
        reference: Float[Tensor, "m c h w"] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ModuleList([base.denoiser, *base.text_encoders])  # so that they move together
        self.schedule = base.schedule
        self.triples, self.texts = tuple(triples), tuple(texts)
        self.latents, self.reference = latents, reference
        self.rows: list[dict[str, Any]] = []
        self.predicted: list[Tensor] = []

    def predict_step(self, places: list[int]) -> int:
        chosen = [self.triples[place] for place in places]
        x_0 = self.latents[[triple.place for triple in chosen]].to(self.device)
        noise = torch.stack([triple.noise(x_0.shape[1:]) for triple in chosen]).to(x_0)
        t = torch.tensor([triple.t for triple in chosen], device=self.device)
        conditioning = self.base.encode_prompts([self.texts[triple.place] for triple in chosen])
        predicted = predict(self.base, self.schedule, x_0, noise, t, conditioning)
        reference = predicted if self.reference is None else self.reference[places].to(self.device)
        target = self.schedule.target(x_0, noise, t)
        columns = {
            "float_error": mean_square(reference, target),
            "error": mean_square(predicted, target),
            "deviation": mean_square(predicted, reference),
        }
        for place, triple in enumerate(chosen):
            about = {"zone": triple.zone, "place": triple.place, "t": triple.t, "text": self.texts[triple.place]}
            self.rows.append(about | {name: float(values[place]) for name, values in columns.items()})
        self.predicted.append(predicted.cpu())
        return len(chosen)
