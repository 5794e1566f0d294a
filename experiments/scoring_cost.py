"""What scoring costs: python -m experiments.scoring_cost --images 3000

Writes pictures of a toy subject as PNG files, scores them with the toy judges as quantbooth-evaluate does (CLIP-T,
CLIP-I, local CLIP-I, oracle, diversity), and prints seconds, pictures a second, peak memory, and the largest difference
of a value when pictures are scored one by one.
"""

import math
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from quantbooth.evaluation.module import EvaluationModule
from quantbooth.evaluation.scorer import Scorer
from quantbooth.runtime.draws import index_loader
from quantbooth.runtime.profiling import profile
from quantbooth.sampling.image_set import Request, write_image
from quantbooth_toyworld.judges import load_locator, load_oracle, load_scorer
from quantbooth_toyworld.shipped import judges_folder
from quantbooth_toyworld.subjects import toy_subject

__all__ = ["deviation", "main", "scoring"]

SEEDS = 4
SUBJECT = "toy_mug"


def requests(count: int) -> list[Request]:
    """So many pictures: the subject's prompts in turn, four seeds each."""
    prompts = toy_subject(SUBJECT, "sks").prompts
    made = []
    for place in range(count):
        number, seed = divmod(place, SEEDS)
        prompt = prompts[number % len(prompts)]
        judged = prompt.template.replace("{}", "mug")
        about = {"asked": dict(prompt.asked), "own": dict(prompt.own)}
        made.append(Request(f"{place:05d}.png", judged, judged, f"{number}", prompt.kind, seed, **about))
    return made


def draw(folder: Path, asked: Sequence[Request]) -> None:
    """Pictures to score: the subject's own, each with a grain of its own."""
    pictures, draws = toy_subject(SUBJECT, "sks").references, torch.Generator().manual_seed(0)
    for place, request in enumerate(asked):
        picture = pictures[place % len(pictures)]
        write_image(folder / request.file, picture + 0.05 * torch.randn(picture.shape, generator=draws))


def scoring(folder: Path, asked: Sequence[Request], batch: int) -> list[dict[str, float]]:
    """Rows of all pictures."""
    judges = judges_folder()
    scorer = Scorer(load_scorer(judges), load_locator(judges), load_oracle(judges))
    stage = EvaluationModule(scorer, toy_subject(SUBJECT, "sks"), asked, folder)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", **quiet).test(stage, index_loader(len(asked), batch), verbose=False)
    return stage.rows


def deviation(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """The largest difference of any value; infinite where one of both is NaN."""
    gaps = [0.0]
    for left, right in zip(one, other, strict=True):
        for name, value in left.items():
            if isinstance(value, float) and not (math.isnan(value) and math.isnan(right[name])):
                gap = abs(value - right[name])
                gaps.append(math.inf if math.isnan(gap) else gap)
    return max(gaps)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; the exit code."""
    parser = ArgumentParser("experiments.scoring_cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--compared", type=int, default=100, help="pictures that are scored one by one too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder, asked = Path(place), requests(options.images)
        draw(folder, asked)
        for count in (max(1, options.images // 10), options.images):
            start = time.perf_counter()
            with profile() as cost:
                rows = scoring(folder, asked[:count], options.batch)
            seconds = time.perf_counter() - start
            told = f"{seconds:.1f} s, {count / seconds:.0f} a second, peak {cost.peak_memory_bytes / 1e6:,.0f} MB"
            sys.stdout.write(
                f"{count} pictures, {options.batch} at a time, {torch.get_num_threads()} threads: {told}\n"
            )
        few = asked[: options.compared]
        largest = deviation(scoring(folder, few, 8), scoring(folder, few, 1))
        sys.stdout.write(f"scored 8 at a time and one by one, values differ by at most {largest:.2g}\n")
    return 0 if len(rows) == options.images else 1


if __name__ == "__main__":
    sys.exit(main())
