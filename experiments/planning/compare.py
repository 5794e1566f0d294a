"""What a plan counts beside what the benchmark measured: python -m experiments.planning.compare

Each row of `experiments/bench` that quantbooth's own layers make is counted on fake tensors as a plan counts: the same
network, sets, batch and optimizer. Counts are kept in estimates.json, and rows that are in it are not counted again;
`--minutes` ends between two rows. table.md, summary.md and speeds.md are made of it.
"""

import csv
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from experiments.bench.cases import Case, Setting
from experiments.bench.results import read
from experiments.bench.sizes import SIZES, empty_denoiser
from experiments.bench.training import inputs_of
from experiments.bench.weights import layers_of
from experiments.planning.measure import FILE
from quantbooth.planning.autocast import as_on_card, half_precision
from quantbooth.planning.live_bytes import emptied_
from quantbooth.planning.stages import Quantized, counted, warm_
from quantbooth.quant.scale_sets import Parts, attach_, parameters
from quantbooth.quant.selection import SetSelection
from quantbooth.reporting.tables import markdown
from quantbooth.tuning.optimizers import optimizer_factory

__all__ = ["Count", "Measured", "Step", "count", "measured", "speeds", "summary", "table"]

HERE = Path(__file__).parent
BENCH = HERE.parent / "bench"
GPU = ("h200-b25d228", "h100-0f909e7")
METHODS = {"ours": 1, "ours_eager": 1, "ours_fused": 1, "ours_in_out": 1, "ours_zones": 3, "ours_subjects": 8}
"""The methods of the card that are the product's, and their scale sets."""
PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed", "32": "32-true"}
BAND = 0.15
GB = 1e9


@dataclass(frozen=True)
class Step:
    """A training step of quantized layers."""

    model: str
    latents: int
    bits: int
    batch: int
    sets: int
    checkpointing: bool
    precision: str = "32-true"
    card: bool = False
    inputs: bool = False


@dataclass(frozen=True)
class Count:
    """Bytes of the network, sets and optimizer; kept between forward and backward; at the most; and operations."""

    held: int
    kept: int
    peak: int
    flops: int = 0

    @property
    def top(self) -> int:
        """Bytes on top of what is held."""
        return self.peak - self.held


@dataclass(frozen=True)
class Measured:
    """A row of the benchmark, in GB.

    Attributes:
        where: the machine.
        method: its name there.
        step: what was measured.
        peak: the most, without what other rows left; on the CPU with libraries, as a plan prints it.
        top: of it what the step added to what was there before.
        kept: what autograd keeps; None where it was not measured.
        libraries: what the process had before, which a plan adds to its count.
        seconds: of a step; None where other programs ran beside it.
    """

    where: str
    method: str
    step: Step
    peak: float
    top: float
    kept: float | None
    libraries: float = 0
    seconds: float | None = None

    def of_peak(self, counts: Count) -> float:
        """Return the peak that a plan says."""
        return counts.peak / GB + self.libraries


def count(step: Step) -> Count:
    """Count a step as a plan does."""
    setting = Setting(step.model, step.latents, step.checkpointing)
    case, draws = Case(setting, "quantbooth", step.bits, step.batch, step.sets), torch.Generator()
    with counted(step.card) as counter:
        denoiser = empty_denoiser(step.model).train()
        Quantized(list(layers_of(denoiser)), step.bits).apply_(denoiser)
        emptied_(denoiser, torch.device("cpu"))
        denoiser.requires_grad_(False)
        selection = attach_(denoiser, step.sets, SetSelection(), parts=Parts(inputs=step.inputs))
        if step.checkpointing:
            denoiser.enable_gradient_checkpointing()
        learned = [one for kind in parameters(denoiser).values() for one in kind]
        optimizer = optimizer_factory({"name": "adamw", "lr": 1e-6, "weight_decay": 0})([{"params": learned}])
        warm_(optimizer, learned)
        inputs = inputs_of(case, draws)
        selection.choose(torch.empty(step.batch, dtype=torch.int64))
        held = counter.live
        counter.restart()
        with as_on_card(step.card):
            with half_precision(step.precision):
                found = inputs.predict(denoiser, inputs.sample)
                loss = F.mse_loss(found.float(), inputs.target)
            del found
            kept = counter.live - held
            loss.backward()
        optimizer.step()
    return Count(held, kept, counter.peak, counter.flops)


def measured() -> Iterator[Measured]:
    """Yield the rows that have figures: of the cards, then of the CPU."""
    for folder in GPU:
        with (BENCH / "gpu" / folder / "steps.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["method"] in METHODS and not row["error"]]
        for row in rows:  # a graph recorded earlier leaves memory: what a method holds is the least of its rows
            same = [
                float(one["built_gb"]) for one in rows if (one["size"], one["method"]) == (row["size"], row["method"])
            ]
            yield _of_card(folder, row, min(same))
    kept = {str(Case.of(row).key): row["kept_gb"] for row in read(BENCH / "results.json")}
    for row in json.loads(FILE.read_text())["rows"]:
        names = ("model", "latents", "bits", "batch", "sets", "checkpointing")
        step, top = Step(**{name: row[name] for name in names}), row["peak_gb"] - row["build_gb"]
        found = row["peak_gb"], top, kept[str(Case.of(row).key)], row["libraries_gb"]
        yield Measured("CPU", row["method"], step, *found)


def _of_card(folder: str, row: dict[str, str], before: float) -> Measured:
    side = SIZES[row["size"]].config["sample_size"]
    step = Step(
        *(row["size"], side, 4, int(row["batch"]), METHODS[row["method"]], row["checkpointing"] == "True"),
        *(PRECISIONS[row["precision"]], True, row["method"] == "ours_in_out"),
    )
    graph = row.get("graph") == "True"
    top = float(row["peak_gb"]) - float(row["built_gb"])
    name = row["method"] + (", graph" if graph else "")
    kept = None if graph else float(row["kept_gb"])
    where = folder.split("-")[0].upper()
    return Measured(where, name, step, before + top, top, kept, seconds=float(row["ms"]) / 1000)


Found = list[tuple[Measured, Count]]


def table(found: Found) -> str:
    """Return a line for each row, in GB."""
    header = ("where", "step", "bits", "batch", "sets", "peak counted", "measured", "ratio")
    alone = ("step alone counted", "measured", "ratio", "kept counted", "measured")
    lines = []
    for row, counts in found:
        step = row.step
        kept = "-" if row.kept is None else f"{row.kept:.3f}"
        pairs = (row.of_peak(counts), row.peak), (counts.top / GB, row.top)
        peaks = [text for a, b in pairs for text in (f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}")]
        numbers = map(str, (step.bits, step.batch, step.sets))
        lines.append((row.where, _named(row), *numbers, *peaks, f"{counts.kept / GB:.3f}", kept))
    return markdown([*header, *alone], lines)


def summary(found: Found) -> str:
    """Return by machine how many rows are within BAND, and the ratios of counted to measured."""
    header = ("where", "rows", "peak within 15 %", "ratios", "step alone within 15 %", "ratios", "kept: ratios")
    lines = []
    for where in dict.fromkeys(row.where for row, _ in found):
        here = [(row, counts) for row, counts in found if row.where == where]
        peaks = [row.of_peak(counts) / row.peak for row, counts in here]
        tops = [counts.top / GB / row.top for row, counts in here]
        kept = [counts.kept / GB / row.kept for row, counts in here if row.kept]
        lines.append((where, str(len(here)), _share(peaks), _span(peaks), _share(tops), _span(tops), _span(kept)))
    return markdown(header, lines)


def speeds(found: Found) -> str:
    """Return how many operations of products a second the cards made: a plan's work over the time of a step."""
    header = ("where", "step", "batch", "work (TFLOP)", "ms a step", "TFLOP/s")
    work = {_network(row.step): counts.flops / row.step.batch for row, counts in found if counts.flops}
    lines = []
    for row, _ in found:
        if row.seconds is not None and (one := work.get(_network(row.step))):
            flops = one * row.step.batch / 1e12
            figures = (f"{flops:.2f}", f"{1000 * row.seconds:.0f}", f"{flops / row.seconds:.0f}")
            lines.append((row.where, _named(row), str(row.step.batch), *figures))
    return markdown(header, lines)


def _network(step: Step) -> tuple[str, int, bool]:
    """Return what decides the operations of one sample."""
    return step.model, step.latents, step.checkpointing


def _named(row: Measured) -> str:
    step = row.step
    what = f"{step.model} {step.latents}x{step.latents} {step.precision}"
    return what + (", checkpointing" if step.checkpointing else "") + f", {row.method}"


def _share(ratios: Sequence[float]) -> str:
    return f"{sum(abs(ratio - 1) <= BAND for ratio in ratios)} of {len(ratios)}"


def _span(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"


def main() -> int:
    """Count what has no count yet, and write the tables."""
    parser = ArgumentParser("experiments.planning.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl", "sd35-medium", "klein-4b"])
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    file, rows = HERE / "estimates.json", list(measured())
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for row in rows:
        key = json.dumps(asdict(row.step))
        if key not in known and row.step.model in options.models and time.monotonic() < until:
            known[key] = asdict(count(row.step))
            file.write_text(json.dumps(known, indent=0) + "\n")
            sys.stderr.write(f"{row.where} {key}: {known[key]}, measured {row.peak:.3f} {row.kept}\n")
    found = [(row, Count(**known[key])) for row in rows if (key := json.dumps(asdict(row.step))) in known]
    (HERE / "table.md").write_text(table(found))
    (HERE / "summary.md").write_text(summary(found))
    (HERE / "speeds.md").write_text(speeds(found))
    sys.stdout.write(summary(found) + f"\n{len(found)} of {len(rows)} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
