"""What learned rounding costs: `python -m experiments.calibration.cost --model sd15 --iterations 10`.

All blocks of a denoiser with random float weights are rounded, as `calibration=qdiffusion` does it, on random items:
time and memory do not depend on the values. Each block's seconds (taping; search of scales; learning and checks) and
peak memory are kept beside its codes in the work folder, so a run that was stopped goes on where it was. The row is
added to `costs.json`, and `costs.md` is made anew.
"""

import json
import logging
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from experiments.bench.machine import facts
from experiments.bench.memory import peak, reset_peak, resident
from experiments.bench.results import read, to_json, write
from experiments.bench.sizes import FLOAT_ENDS, SIZES
from experiments.bench.weights import fill_
from experiments.calibration.cost_table import document
from experiments.calibration.rss import Anonymous
from quantbooth.calibration.adaround import AdaRoundCalibration, AdaRoundConfig, BlockResult
from quantbooth.calibration.calibration_set import CalibrationSet, write_states, write_texts
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.quant.format import Grid
from quantbooth.quant.observers import Affine, MSEObserver
from quantbooth.quant.surgery import NO_SPLITS, matching
from quantbooth.runtime.errors import UserError
from quantbooth.store.progress import Progress as Parts

__all__ = ["main", "parsed", "row_of"]

FOLDER = Path(__file__).parent
GB = 1e9
TOKENS = 77
RECIPE = AdaRoundConfig(iterations=1, batch=1, learning_rate=0.2, penalty=0.01, warm_up=0.2, beta=(20, 2), seed=0)


def main() -> int:
    """The program; the exit code."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options = parsed(sys.argv[1:])
    try:
        row = row_of(options)
    except UserError as error:
        sys.stderr.write(f"cost: {error}\n")
        return 2
    file = options.folder / "costs.json"
    rows = [old for old in read(file) if old["case"] != row["case"]] + [row]
    write(file, to_json(rows))
    write(file.with_suffix(".md"), document(rows))
    shutil.rmtree(options.work)
    return 0


def row_of(options: Namespace) -> dict[str, Any]:
    """Round all blocks; the figures of the whole run, whatever process did its parts."""
    case = {key: vars(options)[key] for key in ("model", "layers", "latents", "items", "batch", "iterations", "bits")}
    _claim(options.work, case)
    imports, denoiser = resident(), _denoiser(options)
    built, names = resident(), matching(denoiser, ["*"], FLOAT_ENDS)
    config = replace(RECIPE, iterations=options.iterations, batch=options.batch)
    watch = _Watch(options.work / "seconds.json")
    search, trainer = _Timed(Grid(options.bits), watch=watch), watch.trainer(options.iterations)
    base = Base("cost", StableDiffusion(), denoiser, None, (), {})
    rounding = AdaRoundCalibration(base, names, NO_SPLITS, search, config, _items(options), trainer)
    columns = ("{task.description}", MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar, watch.anonymous:
        watch.task, watch.bar = bar.add_task("blocks", total=len(rounding.blocks)), bar
        watch.begin()
        rounding.run(Parts(options.work / "parts"), watch.note)
    parts = list(watch.parts.values())
    return {
        "case": case,
        "units": len(rounding.blocks),
        "layers": len(names),
        "weights": sum(layer.numel() for name, layer in denoiser.named_parameters()),
        "import_gb": imports / GB,
        "float_gb": sum(p.numel() * p.element_size() for p in denoiser.parameters()) / GB,
        "built_gb": built / GB,
        **{key: max(part[key] for part in parts) for key in ("peak_gb", "anonymous_gb")},
        **{key: sum(part[key] for part in parts) for key in ("taping_s", "search_s", "learning_s")},
        "largest_gb": max(sum(_weight(denoiser, name).nbytes for name in block.layers) for block in rounding.blocks)
        / GB,
        "machine": facts(),
    }


class _Watch:
    """Seconds and peak memory of every block, kept in a file: a block that another process did is in it already."""

    bar: Progress
    task: Any

    def __init__(self, file: Path) -> None:
        self.file = file
        self.anonymous = Anonymous()
        self.parts: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}

    def begin(self) -> None:
        reset_peak()
        self.anonymous.reset()
        self.searched = 0.0
        self._start = self._ready = time.perf_counter()

    def trainer(self, iterations: int) -> Any:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)

        def made(_what: str) -> Trainer:
            self._ready = time.perf_counter()
            return Trainer(accelerator="cpu", max_steps=iterations, **quiet)  # type: ignore[arg-type]

        return made

    def note(self, number: int, _outcome: BlockResult) -> None:
        if str(number) not in self.parts:
            self.parts[str(number)] = {
                "taping_s": self._ready - self._start - self.searched,
                "search_s": self.searched,
                "learning_s": time.perf_counter() - self._ready,
                "peak_gb": peak() / GB,
                "anonymous_gb": self.anonymous.peak / GB,
            }
            write(self.file, json.dumps(self.parts))
        self.bar.advance(self.task)
        self.begin()


@dataclass(frozen=True, kw_only=True)
class _Timed(MSEObserver):
    """The search of scales, whose seconds the watch counts."""

    watch: _Watch

    def __call__(self, weight: torch.Tensor) -> Affine:
        start = time.perf_counter()
        found = super().__call__(weight)
        self.watch.searched += time.perf_counter() - start
        return found


def _weight(denoiser: Any, layer: str) -> torch.Tensor:
    return denoiser.get_submodule(layer).weight


def _denoiser(options: Namespace) -> Any:
    changed = {"layers_per_block": options.layers} if options.layers else {}
    with torch.device("meta"):
        denoiser = StableDiffusion().new_denoiser(SIZES[options.model].config | changed)
    fill_(denoiser, "cpu", torch.Generator().manual_seed(0))
    return denoiser.eval().requires_grad_(False)


def _items(options: Namespace) -> CalibrationSet:
    """Random states of one prompt, so many that there are as many items as asked for.

    Raises:
        UserError: when there is no such number of states.
    """
    if options.items < 2 or options.items % 2:
        raise UserError(f"items must be an even number >= 2 (each state is two items), got {options.items}")
    draw, folder = torch.Generator().manual_seed(1), options.work / "set"
    folder.mkdir(exist_ok=True)
    times = options.items // 2
    write_states(folder, 0, torch.randn(1, times, 4, options.latents, options.latents, generator=draw))
    texts = Conditioning(torch.randn(2, TOKENS, SIZES[options.model].text, generator=draw))
    write_texts(folder, ["a prompt"], texts, torch.linspace(999, 0, times).tolist(), 1)
    return CalibrationSet(folder)


def _claim(work: Path, case: dict[str, Any]) -> None:
    """Begin a work folder, or see that it belongs to this case."""
    work.mkdir(parents=True, exist_ok=True)
    about = work / "case.json"
    if about.exists() and json.loads(about.read_text()) != case:
        raise UserError(f"{work} belongs to another case, {about.read_text()}: remove it or choose another --work")
    about.write_text(json.dumps(case))


def parsed(arguments: list[str]) -> Namespace:
    """The options of a command line."""
    parser = ArgumentParser("experiments.calibration.cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=[name for name, size in SIZES.items() if not size.pooled], default="sd15")
    parser.add_argument("--layers", type=int, help="layers of each of its blocks, instead of the model's own")
    parser.add_argument("--latents", type=int, default=32, help="side of the latents")
    parser.add_argument("--items", type=int, default=8, help="of the calibration set, an even number")
    parser.add_argument("--batch", type=int, default=8, help="items of an iteration")
    parser.add_argument("--iterations", type=int, default=10, help="of every block")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where costs.json and costs.md are")
    parser.add_argument("--work", type=Path, default=FOLDER / "work", help="what is done so far; removed at the end")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
