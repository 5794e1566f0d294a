"""What runs where: the peak of each stage by base and card: python -m experiments.planning.where --work DIR

DIR gets folders of the bases' true architectures without weights. A plan is a base with a preset, or a recipe
(`conf/experiment`); `one photo` is a step of one photo alone, at the least memory. Stages are kept in where.json with a
digest of the options that decide them: what is in it is not counted again, by another card neither. `--minutes` ends
between two stages. where.md, cards.md and steps.md are made of it.
"""

import hashlib
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.planning.cards import ALONE, Known, tables
from experiments.random_base import write_configs
from quantbooth.planning.stages import Peak
from quantbooth.run.planned import on_card, stages
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir, plain
from quantbooth.runtime.hydra_versions import BASE

__all__ = ["FILE", "PLANS", "RECIPES", "Plan", "complete", "deciding"]

FILE = Path(__file__).with_name("where.json")
BASES = {
    **{"klein_4b": "klein-4b", "sd35_medium": "sd35-medium", "sdxl": "sdxl", "sd15": "sd15", "sd21": "sd21"},
    **{"pixart_sigma": "pixart-sigma", "sana": "sana", "zimage": "zimage", "flux1_dev": "flux1-dev"},
    **{"sd35_large": "sd35-large", "chroma": "chroma", "qwen_image": "qwen-image"},
}
"""Bases and their architectures, the most wanted first."""
RECIPES = {"klein_12gb": "klein-4b", "sd35m_8gb": "sd35-medium-without-t5", "sdxl_8gb": "sdxl"}
PRESETS = ("8gb", "12gb", "16gb", "24gb", "cpu")
UNET = ("sd15", "sd21", "sdxl", "pixart_sigma")
DECIDE = {
    "calibration": ("base", "quant", "calibration"),
    "encoding": ("base",),
    "tuning": ("base", "quant", "tuner", "strategy", "prior", "optimizer", "trainer", "resources", "subjects"),
    "sampling": ("base", "quant", "tuner", "strategy", "trainer", "sampler", "protocol"),
    "scoring": ("scorer", "protocol"),
}
"""Groups of options that decide a stage."""
NOT = {
    "resources": {"memory_gb", "cuda_graphs", "checkpoint_every"},
    "base": {"path", "folder", "gradient_checkpointing"},
    "quant": {"group_size"},
}
"""Options of these groups that decide no memory, that no plan sets, or where files lie."""


@dataclass(frozen=True)
class Plan:
    """A base, its architecture, the card or what else names it, and its options."""

    base: str
    architecture: str
    name: str
    words: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return its name in where.json."""
        return f"{self.base} {self.name}"

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages that are counted."""
        return ("tuning",) if self.name.startswith(ALONE) else tuple(DECIDE)

    @cache  # noqa: B019
    def settings(self, folder: Path | str) -> DictConfig:
        """Return its configuration with a folder of the base."""
        with hydra.initialize_config_dir(str(conf_dir()), **BASE):
            return hydra.compose("quantbooth", [*self.words, f"base.path={folder}"])


def plans() -> Iterator[Plan]:
    """Yield recipes, then one photo alone, then every preset, the most wanted first."""
    for recipe, architecture in RECIPES.items():
        name = next(base for base, made in BASES.items() if architecture.startswith(made))
        yield Plan(
            name, architecture, recipe, (f"experiment={recipe}", "subject.path=photos", "subject.class_word=dog")
        )
    for tuner in ("scales_in_out", "scales"):
        for base, architecture in BASES.items():
            words = (*_of_base(base), "preset=8gb", "prior=none", f"tuner={tuner}")
            yield Plan(base, architecture, f"{ALONE}, {tuner}", words)
    for base, architecture in BASES.items():
        for preset in PRESETS:
            words = (*_of_base(base), f"preset={preset}", "scorer=clip_l14", "locator=whole")
            yield Plan(base, architecture, preset, words)


def _of_base(base: str) -> tuple[str, ...]:
    sampler = () if base in UNET else ("sampler=flow_euler",)
    return (f"base={base}", *sampler, *(("sampler.guidance=1",) if base == "flux1_dev" else ()))


PLANS = tuple(plans())


def deciding(plan: Plan, stage: str) -> str:
    """Return a digest of the options that decide the memory of a stage."""
    settings = plain(plan.settings("DIR"))
    chosen: dict[str, Any] = {"architecture": plan.architecture} if "base" in DECIDE[stage] else {}
    for group in DECIDE[stage]:
        node = settings.get(group)
        left_out = NOT.get(group, set())
        chosen[group] = {key: node[key] for key in node if key not in left_out} if isinstance(node, dict) else node
    if "protocol" in chosen:
        chosen["protocol"] = settings["protocol"]["batch"]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def counted(plan: Plan, stage: str, folder: Path) -> dict[str, Any]:
    """Count a stage."""
    run = Run(plan.settings(folder))
    assert on_card(run) is (plan.name != "cpu")
    peak: Peak = stages(run)[stage]()
    return {"peak": peak.peak, "parts": dict(peak.parts), "files": dict(peak.files)}


def reused(known: Known, stage: str, digest: str) -> Mapping[str, Any] | None:
    """Return a stage that another plan of the base has counted with the same options."""
    found = (plan[stage] for plan in known.values() if stage in plan)
    return next((one for one in found if one["options"] == digest), None)


def complete(known: Known) -> Known:
    """Return the plans of which all stages are counted, in the order of PLANS."""
    return {plan.key: known[plan.key] for plan in PLANS if set(plan.stages) <= set(known.get(plan.key, {}))}


def main() -> int:
    """Count what is not counted yet, and write the tables."""
    parser = ArgumentParser("experiments.planning.where", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--plans", nargs="+", default=None, help="presets, recipes or `one photo, scales`; none: all")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    for plan in PLANS:
        if plan.base not in options.bases or plan.name not in (options.plans or [plan.name]):
            continue
        folder = options.work / plan.architecture
        if not folder.exists():
            write_configs(plan.architecture, folder)
        for stage in plan.stages:
            digest, found = deciding(plan, stage), known.setdefault(plan.key, {})
            if found.get(stage, {}).get("options") != digest and time.monotonic() < until:
                found[stage] = reused(known, stage, digest) or {"options": digest, **counted(plan, stage, folder)}
                FILE.write_text(json.dumps(known, indent=1) + "\n")
                sys.stderr.write(
                    f"{time.strftime('%H:%M:%S')} {plan.key} {stage}: {found[stage]['peak'] / 1e9:.2f} GB\n"
                )
    for name, text in tables(complete(known)).items():
        FILE.with_name(name).write_text(text)
    sys.stdout.write(f"{len(complete(known))} of {len(PLANS)} plans\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
