"""quantbooth-pretrain: train a toy base and its judges from scratch, resuming from the newest checkpoint.

quantbooth-pretrain                         # everything (hours on 2 cores)
quantbooth-pretrain 'parts=[judges]'        # scorer, locator and oracle only
quantbooth-pretrain model=toy_flow              # the flow base, with the shipped autoencoder and judges
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base, save_base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.cli import Command
from quantbooth.runtime.config import plain
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import Request
from quantbooth.store.files import folder_fingerprint
from quantbooth.tuning.callbacks import SampleGrids
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.card import write_card
from quantbooth_toyworld.judge_recipes import train_locator, train_oracle, train_scorer
from quantbooth_toyworld.models import fit_encoder_, untrained_base, untrained_flow_base
from quantbooth_toyworld.pretraining import (
    BaseTraining,
    DecoderTraining,
    Pool,
    Recipe,
    Weighting,
    fit_resumably,
    render_pool,
)
from quantbooth_toyworld.questions import held_out_captions
from quantbooth_toyworld.shipped import base_folder, judges_folder, save_judge

__all__ = ["job", "main"]

JUDGES: dict[str, Callable[[int], tuple[nn.Module, dict[str, float]]]] = {
    "scorer": train_scorer,
    "locator": train_locator,
    "oracle": train_oracle,
}
AVERAGE_FROM = 200
WATCHED = 16


def job(cfg: DictConfig) -> Path:
    """Train the requested parts; return the folder of the shipped files."""
    settings = plain(cfg)
    torch.set_flush_denormal(True)
    require_start(settings)
    work, assets = Path(settings["work"]), Path(settings["assets"])
    model = settings["models"][settings["model"]]
    sampler = Sampler(**model["sampler"])
    if "judges" in settings["parts"]:
        train_judges(assets / "judges", settings["judges"])
    if "base" in settings["parts"]:
        pool = render_pool(settings["scenes"], settings["seed"], work / "pool.safetensors")
        save_base(train_base(settings, pool, work, sampler), assets / "base", torch.float16)
    if "card" in settings["parts"]:
        judges = trained if (trained := assets / "judges").is_dir() else judges_folder()
        write_card(assets, sampler, judges, **model["card"])
    return assets


def require_start(settings: dict[str, Any]) -> None:
    """Refuse a start that has no effect, and rounds that begin nowhere."""
    start, first, rounds = settings["start"], settings["begin_with"], settings["models"][settings["model"]]["rounds"]
    if start is not None and settings["model"] != "toy_flow":
        raise UserError(f"start is of model=toy_flow, got start={start} with model={settings['model']}")
    if first is not None and start is None:
        raise UserError(f"begin_with leaves out rounds, and needs start=FOLDER, whose weights had them; got {first}")
    if first is not None and first not in rounds:
        raise UserError(f"begin_with must be one of {', '.join(rounds)}, got {first}")


def train_judges(folder: Path, seeds: dict[str, int]) -> None:
    """Train each judge with its own seed, unless its file exists already."""
    for kind, seed in seeds.items():
        if not (folder / f"{kind}.safetensors").is_file():
            judge, figures = JUDGES[kind](seed)
            save_judge(judge, folder, figures)


def train_base(settings: dict[str, Any], pool: Pool, work: Path, sampler: Sampler) -> Base:
    """Train denoiser and text encoders jointly in several rounds.

    Each round starts from the averaged weights of the previous one, with another seed.
    """
    kind = settings["model"]
    _require_same_training(settings, work / FOLDERS[kind])
    base = BEGINNINGS[kind](settings, pool, work)
    latents = torch.cat([base.encode_images(part.float() / 255).half() for part in pool.images.split(1000)])
    rounds = list(settings["models"][kind]["rounds"].items())
    first = [name for name, _ in rounds].index(settings["begin_with"] or rounds[0][0])
    for place, (name, values) in list(enumerate(rounds))[first:]:
        folder = work / FOLDERS[kind] / name
        weighting, precision = Weighting(**values.pop("weighting")), values.pop("precision")
        recipe = Recipe(seed=settings["seed"] + place, **values)
        grids = SampleGrids(lambda: base, sampler, watched(), settings["validation_steps"], folder / "samples")
        training = BaseTraining(base, latents, pool, recipe, weighting)
        fit_resumably(training, recipe.steps, folder, AVERAGE_FROM, [grids], precision)
    return base


def _require_same_training(settings: dict[str, Any], folder: Path) -> None:
    """Note what a training begins with beside its checkpoints, so that another one does not take them for its own.

    Raises:
        UserError: when the folder has checkpoints of another beginning.
    """
    start = None if settings["start"] is None else folder_fingerprint(Path(settings["start"]))
    own, noted = {"start": start, "seed": settings["seed"]}, folder / "begun_with.json"
    if noted.is_file() and json.loads(noted.read_text()) != own:
        raise UserError(f"{folder} has checkpoints of a training with another start or seed; choose another work=DIR")
    folder.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(own))


def begin_toy(settings: dict[str, Any], pool: Pool, work: Path) -> Base:
    """Return the untrained toy base; its encoder is fitted by PCA, its decoder is trained."""
    base = untrained_base(words(), settings["seed"])
    kept = fit_encoder_(base.autoencoder, pool.images[:4000].float() / 255)
    (work / "variance_kept.txt").write_text(f"{kept:.4f}\n")
    decoder = Recipe(seed=settings["seed"], **settings["models"]["toy"]["decoder"])
    fit_resumably(DecoderTraining(base, pool, decoder), decoder.steps, work / "decoder", AVERAGE_FROM)
    return base


def begin_toy_flow(settings: dict[str, Any], pool: Pool, work: Path) -> Base:
    """Return the flow base to train: untrained with the toy base's autoencoder, or the folder `start`."""
    if settings["start"] is not None:
        return load_base(Path(settings["start"]), "toy_flow")
    return untrained_flow_base(words(), settings["seed"], load_base(base_folder(), "toy").autoencoder)


BEGINNINGS = {"toy": begin_toy, "toy_flow": begin_toy_flow}
FOLDERS = {"toy": "base", "toy_flow": "flow"}


def watched() -> list[Request]:
    """Return requests of held-out captions for sample grids during training."""
    texts = [held.text for held in held_out_captions(WATCHED, seed=0)]
    return [Request(f"{i}.png", text, text, text, "held out", 0) for i, text in enumerate(texts)]


main = Command(__name__, "pretrain")

if __name__ == "__main__":
    main()
