"""Tables of counted plans: every plan, the smallest card of each base, a step of one photo."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.planning.compare import measured
from quantbooth.reporting.tables import markdown

__all__ = ["ALONE", "STAGES", "Known", "tables"]

Known = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Bytes by "BASE NAME" and stage: `peak`, `parts`, `files`."""
STAGES = ("calibration", "encoding", "tuning", "sampling", "scoring")
ALONE = "one photo"
WORK = "work"
GB, MB = 1e9, 1e6


def tables(known: Known) -> dict[str, str]:
    """Return the tables by the name of their file."""
    return {"where.md": where(known), "cards.md": cards(known), "steps.md": steps(known)}


def where(known: Known) -> str:
    """Return a line for each plan with its peaks in GB, and whether all fit."""
    lines = []
    for key, found in known.items():
        base, name = key.split(" ", 1)
        if not name.startswith(ALONE):
            peaks = [f"{found[stage]['peak'] / GB:.2f}" for stage in STAGES]
            lines.append((base, name, *peaks, f"{_highest(found)[1] / GB:.2f}", _fits(name, found)))
    return markdown(("base", "preset or recipe", *STAGES, "highest", "fits"), lines)


def cards(known: Known) -> str:
    """Return for each base its recipe and the smallest preset that fits."""
    bases = dict.fromkeys(key.split(" ", 1)[0] for key in known)
    lines = [line for base in bases for line in _cards_of(base, known)]
    header = ("base", "card", "options", "highest, GB", "in", "most of it", "tuning, GB")
    return markdown((*header, "quantized base, GB", "scale set, MB"), lines)


def _cards_of(base: str, known: Known) -> Iterator[tuple[str, ...]]:
    plans = {name: found for key, found in known.items() for one, name in [key.split(" ", 1)] if one == base}
    recipes = [name for name in plans if re.fullmatch(r".+_\d+gb", name)]
    presets = sorted((name for name in plans if re.fullmatch(r"\d+gb", name)), key=_room)
    fitting = [name for name in presets if _fits(name, plans[name]) == "yes"]
    for name in (*recipes, *(fitting[:1] or presets[-1:])):
        stage, peak = _highest(plans[name])
        options = f"experiment={name}" if name in recipes else f"base={base} preset={name}"
        card = f"{_room(name)} GB" if _fits(name, plans[name]) == "yes" else f"more than {_room(name)} GB"
        files = {file: size for found in plans[name].values() for file, size in found["files"].items()}
        yield (
            *(base, card, f"`{options}`", f"{peak / GB:.2f}", stage, _most(plans[name][stage])),
            f"{plans[name]['tuning']['peak'] / GB:.2f}",
            *(f"{files['quantized base'] / GB:.2f}", f"{files['what is tuned'] / MB:.1f}"),
        )


def steps(known: Known) -> str:
    """Return a line for each step of one photo with its parts, and what the benchmark measured of the same step."""
    lines = []
    for key, found in known.items():
        base, name = key.split(" ", 1)
        if name.startswith(ALONE):
            step, tuner = found["tuning"], name.removeprefix(f"{ALONE}, ")
            parts = step["parts"]
            kept, learned = parts["kept activations"], parts["trained"] + parts["optimizer"]
            split = (parts["denoiser"], kept, learned, step["peak"] - parts["denoiser"] - kept - learned)
            file = f"{step['files']['what is tuned'] / MB:.1f}"
            lines.append(
                (base, tuner, *(f"{size / GB:.2f}" for size in (step["peak"], *split)), _measured(base, tuner), file)
            )
    header = ("base", "tuner", "peak, GB", "denoiser", "kept activations", "gains and optimizer", WORK)
    return markdown((*header, "measured peak, GB", "scale set, MB"), lines)


def _measured(base: str, tuner: str) -> str:
    same = (base, 1, 1, True, "bf16-mixed", True, tuner == "scales_in_out")
    found = [
        f"{row.peak:.2f} ({row.where})"
        for row in measured()
        for step in [row.step]
        if (step.model, step.batch, step.sets, step.checkpointing, step.precision, step.card, step.inputs) == same
    ]
    return ", ".join(found) or "-"


def _highest(found: Mapping[str, Mapping[str, Any]]) -> tuple[str, int]:
    return max(((stage, one["peak"]) for stage, one in found.items()), key=lambda pair: pair[1])


def _most(one: Mapping[str, Any]) -> str:
    parts = {**one["parts"], WORK: one["peak"] - sum(one["parts"].values())}
    return max(parts, key=lambda name: parts[name])


def _room(name: str) -> int:
    return int(name.removesuffix("gb").rpartition("_")[2])


def _fits(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    if not name.endswith("gb"):
        return "-"
    stage, highest = _highest(found)
    return "yes" if highest <= _room(name) * GB else f"no, {stage}"
