"""quantbooth-probe: what a base decides at which timestep, and the zones that follow from it.

quantbooth-probe base=toy
quantbooth-probe base=folder base.path=DIR scorer=clip_b32 sampler.steps=25
"""

import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig

from quantbooth.artifacts.fingerprint import folder_fingerprint
from quantbooth.artifacts.item import Item
from quantbooth.artifacts.probe import KIND, ProbeRecord, read_probe, write_probe
from quantbooth.artifacts.store import Store
from quantbooth.cli import command
from quantbooth.config import build, plain
from quantbooth.data.contrasts import Contrast, contrasts_of
from quantbooth.data.draws import place_loader
from quantbooth.data.options import place, whole
from quantbooth.data.questions import Questions
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.pretrained import load_base
from quantbooth.diffusion.sampling import Sampler
from quantbooth.errors import UserError
from quantbooth.reporting.probe import write_document
from quantbooth.schema import content, trainer_content
from quantbooth.stages.costs import measured
from quantbooth.stages.evaluation import Scorer
from quantbooth.stages.probing import Forecasts, Swaps, WorthOfText
from quantbooth.stages.progress import Bar

__all__ = ["document", "main", "probe"]

LEAST = {"pairs": 2, "every": 1, "questions": 1, "grid": 2, "seed": 0, "batch": 1, "round": 1}
PLACES = ("folder", "document")


class Probing:
    """One probe's settings; cheap objects are built here, before heavy work starts."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.settings = cfg, plain(cfg)
        self.options: dict[str, Any] = dict(self.settings["probe"])
        for option, least in LEAST.items():
            whole(f"probe.{option}", self.options[option], least)
        for option in PLACES:
            place(f"probe.{option}", self.options[option])
        if self.settings["quant"]["bits"] is not None:
            raise UserError("quantbooth-probe looks at a float base; leave quant=fp")
        self.store = Store(place("paths.store", self.settings["paths"]["store"]))
        self.base_folder = build(cfg.base.folder, Path)
        self.sampler, self.scorer = build(cfg.sampler, Sampler), build(cfg.scorer, Scorer)
        count, seed = self.options["questions"], self.options["seed"]
        self.questions = build(cfg.base.held_out, Questions, count=count, seed=seed)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The person's own pairs, else those of the base."""
        count, seed = self.options["pairs"], self.options["seed"]
        if self.options["prompts"] is not None:
            return contrasts_of(self.options["prompts"], count, seed)
        return build(self.cfg.base.contrasts, tuple, count=count, seed=seed)

    @property
    def base_settings(self) -> dict[str, Any]:
        return dict(self.settings["base"])

    @property
    def item(self) -> Item:
        """The artifact of this probe."""
        identity = {
            "base": folder_fingerprint(self.base_folder),
            "sampler": content(self.settings, "sampler"),
            "scorer": self.scorer.name,
            **content(self.settings, "probe"),
            "pairs": [[pair.first, pair.second, pair.seed] for pair in self.contrasts],
            "asked": self.questions.fingerprint,
            **trainer_content(self.settings),
        }
        return Item(self.store, KIND, str(self.base_settings["name"]), "quantbooth-probe", identity)

    def base(self) -> Base:
        base = frozen(load_base(self.base_folder, self.base_settings["name"]))
        if base.timesteps != self.base_settings["timesteps"]:
            raise UserError(f"base.timesteps must be {base.timesteps}, got {self.base_settings['timesteps']}")
        return base

    def record(self) -> ProbeRecord:
        return ProbeRecord(
            base=self.base_settings["name"],
            quant=self.settings["quant"]["name"],
            timesteps=self.base_settings["timesteps"],
            pairs=len(self.contrasts),
            questions=self.questions.name,
            seed=self.options["seed"],
            sampler=str(self.sampler),
            scorer=self.scorer.name,
            zones=self.base_settings["zones"],
        )


def probe(cfg: DictConfig) -> Path:
    """Probe one base; return the folder of the probe."""
    probing = Probing(cfg)
    if found := probing.item.find():
        return found
    with probing.item.writing(probing.settings) as draft:
        with measured() as cost:
            write_probe(draft.path, probing.record(), **rows_of(probing))
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)
    return probing.item.require()


def rows_of(probing: Probing) -> dict[str, list[dict[str, Any]]]:
    """The three tables."""
    base, options, questions = probing.base(), probing.options, probing.questions
    switches = list(range(0, base.timesteps + 1, options["every"]))
    swaps = Swaps(base, probing.sampler, probing.contrasts, switches, probing.scorer)
    _run(probing, swaps, len(probing.contrasts) * len(switches), "swapping prompts")
    made = Forecasts(base, probing.sampler, questions.each)
    _run(probing, made, len(questions.each), "watching pictures come to be")
    known = questions.pictures
    x_0 = torch.cat(made.finished) if known is None else base.encode_images(known).cpu()
    grid = torch.linspace(0, base.timesteps - 1, options["grid"]).round().int().tolist()
    worth = WorthOfText(base, x_0, questions.each, grid)
    _run(probing, worth, len(questions.each) * len(grid), "weighing the text")
    return {"swaps": swaps.rows, "forecasts": made.rows, "worth": worth.rows}


def document(jobs: list[tuple[DictConfig, Path]]) -> None:
    """The document of the last probe."""
    cfg, folder = jobs[-1]
    options, found = plain(cfg)["probe"], read_probe(folder)
    files, page = (place(f"probe.{option}", options[option]) for option in PLACES)
    typed = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    borders = write_document(found, page, files, options["round"], typed)
    print(f"suggested zones of {found.record.base}: {borders}")  # noqa: T201  # what a person looks for next
    print(f"the document: {page}")  # noqa: T201


def _run(probing: Probing, stage: LightningModule, count: int, what: str) -> None:
    trainer = build(probing.cfg.trainer, Trainer, logger=False, callbacks=[Bar(what)])
    trainer.predict(stage, place_loader(count, probing.options["batch"]), return_predictions=False)


main = command(probe, "probe", conclude=document)

if __name__ == "__main__":
    main()
