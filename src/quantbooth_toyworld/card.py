"""The model card of the toy base: its training, and the oracle's accuracy on its pictures of held-out captions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.progress import progress
from quantbooth_toyworld.judges import Oracle, load_oracle
from quantbooth_toyworld.questions import HeldOut, accuracies, held_out_captions
from quantbooth_toyworld.scenes import render

__all__ = ["measure", "write_card"]

BATCH = 25
SAMPLER = Sampler("ddim", 25, 4.0)

TEXT = """# Toy base

A Stable-Diffusion-shaped model of a rendered 32x32 world, made by `quantbooth-pretrain` of this project from nothing.
It is a normal diffusers pipeline folder (`StableDiffusionPipeline.from_pretrained` reads it). Licence: Apache-2.0.

- denoiser: {denoiser:,} parameters, latents 24 x 8 x 8; text encoder: {text:,}; autoencoder: {autoencoder:,}; float16
- noise schedule: scaled linear, T = 1000, predicts epsilon, trained with every tenth caption empty
- training data: rendered scenes only; the twelve personal subjects' combinations of class with emblem or layout are
  left out
{notes}

## Held-out figures

{pictures} captions of scenes that no training drew (seed {seed}), DDIM, 25 steps, guidance 4; the share of pictures in
which the oracle's first guess is what the caption asked for. "Rendered" is the same oracle on the true pictures.

| | {header} |
|---|{rule}|
| toy base | {drawn} |
| rendered | {rendered} |

{judges}
"""


def write_card(assets: Path, pictures: int, seed: int, notes: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Measure the shipped base, write ``README.md`` and ``figures.json`` next to its folder; return the figures."""
    figures = measure(assets, pictures, seed)
    base, names = load_base(assets / "base", "toy"), list(figures["rendered"])
    text = TEXT.format(
        denoiser=_size(base.denoiser),
        text=_size(base.text_encoder),
        autoencoder=_size(base.autoencoder),
        notes="\n".join(f"- {note}" for note in notes),
        pictures=pictures,
        seed=seed,
        header=" | ".join(names),
        rule="---|" * (len(names) - 1) + "---",
        drawn=" | ".join(f"{figures['drawn'][name]:.3f}" for name in names),
        rendered=" | ".join(f"{figures['rendered'][name]:.3f}" for name in names),
        judges=_judges(assets / "judges"),
    )
    # Not in base/: a file more in the base's folder would change its fingerprint, and the name of every artifact.
    (assets / "README.md").write_text(text)
    (assets / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def measure(assets: Path, pictures: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy per attribute on pictures of the base, and on the rendered scenes."""
    oracle, held = load_oracle(assets / "judges"), held_out_captions(pictures, seed)
    asked = [caption.asked for caption in held]
    truth = torch.stack([torch.from_numpy(render(caption.scene).image.copy()) for caption in held])
    rendered = truth.permute(0, 3, 1, 2).float() / 255
    return {
        "drawn": _judged(oracle, _drawn(assets, held), asked),
        "rendered": _judged(oracle, rendered, asked),
    }


def _drawn(assets: Path, held: list[HeldOut]) -> torch.Tensor:
    base = load_base(assets / "base", "toy")
    texts = [caption.text for caption in held]
    starts = range(0, len(texts), BATCH)
    return torch.cat(
        [
            SAMPLER.sample(base, part, initial_noise(part, [0] * len(part), base.latent_shape))
            for part in (texts[i : i + BATCH] for i in progress(starts, "drawing held-out captions"))
        ]
    )


def _judged(oracle: Oracle, images: torch.Tensor, asked: list[Mapping[str, str]]) -> dict[str, float]:
    found = accuracies(oracle.probabilities(images), oracle.names, asked)
    return dict(sorted(found.items()))


def _judges(folder: Path) -> str:
    """Return a list of each judge's figures on held-out renders."""
    lines = ["## Judges, on renders they never saw", ""]
    for file in sorted(folder.glob("*.json")):
        figures = json.loads(file.read_text())["figures"]
        lines.append(f"- {file.stem}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return "\n".join(lines)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
