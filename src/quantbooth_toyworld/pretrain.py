"""quantbooth-pretrain: train the toy base and its judges from scratch, resuming from the newest checkpoint.

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
from quantbooth.runtime.cli import Command
from quantbooth.runtime.config import plain
from quantbooth.sampling.image_set import Request
from quantbooth.tuning.callbacks import SampleGrids
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.card import write_card
from quantbooth_toyworld.judge_recipes import train_locator, train_oracle, train_scorer
from quantbooth_toyworld.models import fit_encoder_, untrained_base
from quantbooth_toyworld.pretraining import BaseTraining, DecoderTraining, Pool, Recipe, fit_resumably, render_pool
from quantbooth_toyworld.questions import held_out_captions
from quantbooth_toyworld.shipped import save_judge

__all__ = ["job", "main"]

JUDGES: dict[str, Callable[[int], tuple[nn.Module, dict[str, float]]]] = {
    "scorer": train_scorer,
    "locator": train_locator,
    "oracle": train_oracle,
}
AVERAGE_FROM = 200
SAMPLER = Sampler("ddim", 25, 4.0)
WATCHED = 16


def job(cfg: DictConfig) -> Path:
    """Train the requested parts; return the folder of the shipped files."""
    settings = plain(cfg)
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
    """Train each judge with its own seed, unless its file exists already."""
    for kind, seed in seeds.items():
        if not (folder / f"{kind}.safetensors").is_file():
            judge, figures = JUDGES[kind](seed)
            save_judge(judge, folder, figures)


def train_base(settings: dict[str, Any], pool: Pool, work: Path) -> Base:
    """Fit the encoder by PCA, train the decoder, then train denoiser and text encoder jointly in several rounds.

    Each round starts from the averaged weights of the previous one, with another seed.
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
    """Return requests of held-out captions for sample grids during training."""
    texts = [held.text for held in held_out_captions(WATCHED, seed=0)]
    return [Request(f"{i}.png", text, text, text, "held out", 0) for i, text in enumerate(texts)]


main = Command(__name__, "pretrain")

if __name__ == "__main__":
    main()
