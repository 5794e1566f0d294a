"""quantbooth-probe: find at which timesteps a base decides what, and suggest zones.

quantbooth-probe base=toy
quantbooth-probe base=folder base.path=DIR scorer=clip_b32 sampler.steps=25
"""

import shlex
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from quantbooth.data.questions import Contrast, Questions, contrasts_of, require_all, require_distinct
from quantbooth.diffusion.base import frozen
from quantbooth.probe.document import write_document
from quantbooth.probe.files import KIND, ProbeRecord, read_probe, write_probe
from quantbooth.probe.probing import Probes
from quantbooth.run.models import base_with
from quantbooth.run.options import require_places, require_untouched
from quantbooth.run.prompts import require_read
from quantbooth.run.run import Run
from quantbooth.runtime.config import build, plain
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.profiling import profile
from quantbooth.runtime.progress import say
from quantbooth.schema import content, trainer_content
from quantbooth.store.store import Artifact

__all__ = ["check_job", "conclude", "job", "probe"]


class Probing:
    """The settings of one probe, validated before heavy work starts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.options: dict[str, Any] = dict(run.settings["probe"])
        if run.calibration.quantized:
            raise UserError("quantbooth-probe needs a float base, quant=fp")
        run.check("sampler", "scorer")
        self._require_timesteps(run.settings["base"]["timesteps"])
        count, seed = self.options["questions"], self.options["seed"]
        self.questions = build(run.cfg.base.held_out, Questions, count=count, seed=seed)

    def _require_timesteps(self, timesteps: int) -> None:
        """Refuse numbers of which no zones can come, before any work."""
        every, grid, step = (self.options[key] for key in ("every", "grid", "round"))
        if timesteps % every:
            raise UserError(
                f"probe.every must divide base.timesteps = {timesteps}, so that 0 and it are swaps, got {every}"
            )
        if grid > timesteps:
            raise UserError(f"probe.grid must be at most base.timesteps = {timesteps}, got {grid}")
        if 3 * step > timesteps:
            raise UserError(f"probe.round must be at most a third of base.timesteps = {timesteps}, got {step}")

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The user's prompt pairs, else those of the base."""
        count, seed = self.options["pairs"], self.options["seed"]
        if (pairs := self.options["prompts"]) is not None:
            require_all(pairs, "probe.prompts", count, "probe.pairs")
            require_distinct([" -> ".join(pair) for pair in pairs], "probe.prompts")
            return contrasts_of(pairs, count, seed)
        return build(self.run.cfg.base.contrasts, tuple, count=count, seed=seed)

    @property
    def artifact(self) -> Artifact:
        """The artifact of this probe."""
        identity = {
            "base": self.run.base_fingerprint,
            "sampler": content(self.run.settings, "sampler"),
            "scorer": self.run.scorer.name,
            **content(self.run.settings, "probe"),
            "pairs": [[pair.first, pair.second, pair.seed] for pair in self.contrasts],
            "asked": self.questions.fingerprint,
            **trainer_content(self.run.settings),
        }
        return Artifact(self.run.store, KIND, self.run.base_name, "quantbooth-probe", identity)

    def check_judges(self) -> None:
        """Score a blank picture and every prompt, so that unsupported ones are refused before any work."""
        side = self.run.settings["base"]["resolution"]
        texts = dict.fromkeys(text for pair in self.contrasts for text in (pair.first, pair.second))
        values = [{name: value} for pair in self.contrasts for name, both in pair.attributes.items() for value in both]
        require_read(self.run, [*texts, *(question.text for question in self.questions.each)])
        self.run.scorer.check(torch.zeros(1, 3, side, side), list(texts), None, values)

    def record(self) -> ProbeRecord:
        return ProbeRecord(
            base=self.run.base_name,
            quant=self.run.settings["quant"]["name"],
            timesteps=self.run.settings["base"]["timesteps"],
            pairs=len(self.contrasts),
            questions=self.questions.name,
            seed=self.options["seed"],
            sampler=str(self.run.sampler),
            scorer=self.run.scorer.name,
            zones=self.run.settings["base"]["zones"],
        )


def probe(run: Run) -> Path:
    """Probe one base; return the folder of the probe."""
    probing = Probing(run)
    return probing.artifact.get_or_make(partial(measure, probing))


def measure(probing: Probing) -> None:
    """Probe the base and write the tables."""
    run = probing.run
    probing.check_judges()
    with probing.artifact.writing(run.settings) as draft:
        with profile() as cost:
            write_probe(draft.path, probing.record(), **rows_of(probing))
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)


def rows_of(probing: Probing) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the three tables."""
    run, options, questions = probing.run, probing.options, probing.questions
    base = frozen(base_with(run, None))
    switches = list(range(0, base.timesteps + 1, options["every"]))
    probes = Probes(base, run.sampler, run.loop, options["batch"])
    swaps = probes.prompt_swaps(probing.contrasts, switches, run.scorer)
    forecasts, finished = probes.x0_predictions(questions.each)
    x_0 = finished if questions.pictures is None else base.encode_images(questions.pictures).cpu()
    grid = torch.linspace(0, base.timesteps - 1, options["grid"]).round().int().tolist()
    worth = probes.text_gain(x_0, questions.each, grid)
    return {"swaps": swaps, "forecasts": forecasts, "worth": worth}


def conclude(jobs: list[tuple[DictConfig, Path]]) -> None:
    """Write the document of each probe; of those with one place, that of the last."""
    last = {(cfg.probe.folder, cfg.probe.document): (cfg, folder) for cfg, folder in jobs}
    told = {folder for _, folder in last.values()}
    for cfg, folder in last.values():
        _write(cfg, folder)
    for folder in dict.fromkeys(folder for _, folder in jobs if folder not in told):
        say(f"no document of {folder}, whose place is another probe's; give each its own by probe.folder")


def _write(cfg: DictConfig, folder: Path) -> None:
    """Write the document of a probe."""
    options, found = plain(cfg)["probe"], read_probe(folder)
    files, page = (Path(options[place]).expanduser() for place in ("folder", "document"))
    typed = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    borders = write_document(found, page, files, options["round"], typed)
    print(f"suggested zones of {found.record.base}: {borders}")  # noqa: T201  # what a person looks for next
    print(f"the document: {page}")  # noqa: T201


def _required(cfg: DictConfig) -> Run:
    """Return a run whose options this command uses, and whose document can be written."""
    run = Run(cfg)
    require_untouched(run.settings, "quantbooth-probe")
    require_places(run.settings, "probe")
    return run


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    Probing(_required(cfg)).check_judges()


def job(cfg: DictConfig) -> Path:
    """Run the command on one configuration."""
    return probe(_required(cfg))
