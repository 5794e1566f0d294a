"""quantbooth-pretrain: the toy base and its judges from nothing; killed, it goes on from its newest checkpoint.

quantbooth-pretrain                         # everything (hours on 2 cores)
quantbooth-pretrain 'parts=[judges]'        # scorer, locator and oracle only
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import save_base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.cli import command
from quantbooth.runtime.config import plain
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request
from quantbooth.tuning.callbacks import SampleGrids
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.card import write_card
from quantbooth_toyworld.judge_recipes import train_locator, train_oracle, train_scorer
from quantbooth_toyworld.models import fit_encoder_, untrained_base
from quantbooth_toyworld.pretraining import BaseTraining, DecoderTraining, Pool, Recipe, fit_resumably, render_pool
from quantbooth_toyworld.questions import held_out_captions
from quantbooth_toyworld.shipped import save_judge

__all__ = ["main", "pretrain"]

PARTS = ("base", "judges", "card")
JUDGES: dict[str, Callable[[int], tuple[nn.Module, dict[str, float]]]] = {
    "scorer": train_scorer,
    "locator": train_locator,
    "oracle": train_oracle,
}
AVERAGE_FROM = 200
SAMPLER = Sampler("ddim", 25, 4.0)
WATCHED = 16


def pretrain(cfg: DictConfig) -> Path:
    """Train the parts asked for; return the folder that holds what the package ships."""
    settings = plain(cfg)
    unknown = set(settings["parts"]) - set(PARTS)
    if unknown:
        raise UserError(f"parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    torch.set_flush_denormal(True)
    work, assets = Path(settings["work"]), Path(settings["assets"])
    if "judges" in settings["parts"]:
        train_judges(assets / "judges", settings["judges"])
    if "base" in settings["parts"]:
        pool = render_pool(settings["scenes"], settings["seed"], work / "pool.safetensors")
        save_base(train_base(settings, pool, work), assets / "base", torch.float16)
    if "card" in settings["parts"]:
        write_card(assets, **settings["card"])
    return assets


def train_judges(folder: Path, seeds: dict[str, int]) -> None:
    """Each judge apart, from a seed of its own; one that is there already is kept."""
    for kind, seed in seeds.items():
        if not (folder / f"{kind}.safetensors").is_file():
            judge, figures = JUDGES[kind](seed)
            save_judge(judge, folder, figures)


def train_base(settings: dict[str, Any], pool: Pool, work: Path) -> Base:
    """Encoder by principal components, decoder by gradient, then denoiser and text encoder together, round after round.

    Each round starts from the averaged weights that the one before ended on, with draws of its own.
    """
    base = untrained_base(words(), settings["seed"])
    kept = fit_encoder_(base.autoencoder, pool.images[:4000].float() / 255)
    (work / "variance_kept.txt").write_text(f"{kept:.4f}\n")
    decoder = Recipe(seed=settings["seed"], **settings["decoder"])
    fit_resumably(DecoderTraining(base, pool, decoder), decoder.steps, work / "decoder", AVERAGE_FROM)
    latents = torch.cat([base.encode_images(part.float() / 255).half() for part in pool.images.split(1000)])
    for place, (name, values) in enumerate(settings["base"].items()):
        focus, folder = values.pop("focus"), work / "base" / name
        recipe = Recipe(seed=settings["seed"] + place, **values)
        grids = SampleGrids(lambda: base, SAMPLER, watched(), settings["validation_steps"], folder / "samples")
        fit_resumably(BaseTraining(base, latents, pool, recipe, focus), recipe.steps, folder, AVERAGE_FROM, [grids])
    return base


def watched() -> list[Request]:
    """Held-out captions to look at while training."""
    texts = [held.text for held in held_out_captions(WATCHED, seed=0)]
    return [Request(f"{i}.png", text, text, text, "held out", 0) for i, text in enumerate(texts)]


main = command(pretrain, "pretrain")

if __name__ == "__main__":
    main()
