"""The model cards of the toy bases: their training, and the oracle's accuracy on their pictures of captions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.runtime.progress import progress
from quantbooth_toyworld.judges import Oracle, load_oracle
from quantbooth_toyworld.questions import HeldOut, accuracies, held_out_captions
from quantbooth_toyworld.scenes import render

__all__ = ["measure", "write_card"]

BATCH = 25

ABOUT = {
    "unet": """# Toy base

A Stable-Diffusion-shaped model of a rendered 32x32 world, made by `quantbooth-pretrain` of this project from nothing.
It is a normal diffusers pipeline folder (`StableDiffusionPipeline.from_pretrained` reads it). Licence: Apache-2.0.

- denoiser: {denoiser:,} parameters, latents 24 x 8 x 8; text encoder: {text:,}; autoencoder: {autoencoder:,}; float16
- noise schedule: scaled linear, T = 1000, predicts epsilon, trained with every tenth caption empty""",
    "transformer": """# Toy flow base

A Stable-Diffusion-3-shaped model of a rendered 32x32 world: `quantbooth-pretrain model=toy_flow` of this project made
transformer and text encoders from nothing; the autoencoder is the toy base's. It is a diffusers folder without T5,
`StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None, tokenizer_3=None)` reads it. Licence: Apache-2.0.

- denoiser: {denoiser:,} parameters, latents 24 x 8 x 8; text encoders: {text:,}; autoencoder: {autoencoder:,}; float16
- flow matching, T = 1000, no shift, predicts noise - x_0, trained with every tenth caption empty""",
}
TEXT = """{about}
- training data: rendered scenes only; the twelve personal subjects' combinations of class with emblem or layout are
  left out
{notes}

## Held-out figures

{pictures} captions of scenes that no training drew (seed {seed}), {sampler}, {steps} steps, guidance {guidance:g}; the
share of pictures in which the oracle's first guess is what the caption asked for. "Rendered" is the same oracle on the
true pictures.

| | {header} |
|---|{rule}|
| {name} | {drawn} |
| rendered | {rendered} |

{judges}
"""
SAMPLERS = {"ddim": "DDIM", "flow_euler": "Euler"}


def write_card(
    assets: Path, sampler: Sampler, judges: Path, pictures: int, seed: int, notes: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Measure the shipped base, write ``README.md`` and ``figures.json`` next to its folder; return the figures."""
    base = load_base(assets / "base", "toy")
    figures = measure(base, sampler, judges, pictures, seed)
    names = list(figures["rendered"])
    about = ABOUT[base.component].format(
        denoiser=_size(base.denoiser), text=sum(map(_size, base.text_encoders)), autoencoder=_size(base.autoencoder)
    )
    text = TEXT.format(
        about=about,
        name=about.partition("\n")[0].removeprefix("# ").lower(),
        notes="\n".join(f"- {note}" for note in notes),
        pictures=pictures,
        seed=seed,
        sampler=SAMPLERS[sampler.scheduler],
        steps=sampler.steps,
        guidance=sampler.guidance,
        header=" | ".join(names),
        rule="---|" * (len(names) - 1) + "---",
        drawn=" | ".join(f"{figures['drawn'][name]:.3f}" for name in names),
        rendered=" | ".join(f"{figures['rendered'][name]:.3f}" for name in names),
        judges=_judges(judges),
    )
    # Not in base/: a file more in the base's folder would change its fingerprint, and the name of every artifact.
    (assets / "README.md").write_text(text)
    (assets / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def measure(base: Base, sampler: Sampler, judges: Path, pictures: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy per attribute on pictures of the base, and on the rendered scenes."""
    oracle, held = load_oracle(judges), held_out_captions(pictures, seed)
    asked = [caption.asked for caption in held]
    truth = torch.stack([torch.from_numpy(render(caption.scene).image.copy()) for caption in held])
    rendered = truth.permute(0, 3, 1, 2).float() / 255
    return {
        "drawn": _judged(oracle, _drawn(base, sampler, held), asked),
        "rendered": _judged(oracle, rendered, asked),
    }


def _drawn(base: Base, sampler: Sampler, held: list[HeldOut]) -> torch.Tensor:
    texts = [caption.text for caption in held]
    starts = range(0, len(texts), BATCH)
    return torch.cat(
        [
            sampler.sample(base, part, initial_noise(part, [0] * len(part), base.latent_shape))
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
