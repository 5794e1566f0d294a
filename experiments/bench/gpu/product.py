"""What the product tunes on a card: with graphs and fused kernels against without, and whether every kind of run ends.

    python -m experiments.bench.gpu.product --out FOLDER [--trainer gpu]

Each kind of tuning runs twice on the toy base, as a user would type it: as it is by default, and with
`resources.cuda_graphs=false resources.kernels=eager`. product.csv has a row of each: whether both ended, seconds of
tuning (all runs share the machine, so they are no benchmark), and the largest relative difference (Frobenius) of a
tensor that was learned. Gradients on a card are sums in an order of the library's, so runs are close, not equal.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

STEPS = 30
SHORT = (
    *(f"tuner.steps={STEPS}", "prior.num_class_images=8", "preview.validation_steps=0"),
    *("resources.checkpoint_every=100000", "sampler.steps=5", "protocol.prompt_stride=13", "protocol.prior_prompts=0"),
)
KINDS = {
    "default": (),
    "s2": ("strategy=s2",),
    "s2, bf16": ("strategy=s2", "trainer.precision=bf16-mixed"),
    "s2, fp16": ("strategy=s2", "trainer.precision=16-mixed"),
    "s2 apart": ("method=s2-apart",),
    "graded": ("strategy=graded",),
    "checkpointing": ("strategy=s2", "resources.gradient_checkpointing=true"),
    "accumulating": ("+trainer.accumulate_grad_batches=2",),
    "outputs, class pictures": ("tuner=scales", "prior=generated"),
    "biases and norms": ("tuner=scales_in_out", "tuner.biases=true", "tuner.norms=true"),
    "lora": ("method=lora",),
    "qlora, s2": ("method=qlora", "strategy=s2"),
    "float": ("method=float",),
    "identifier": ("tuner.identifier=true",),
    "identifier, not cached": ("tuner.identifier=true", "resources.cache_latents=false"),
    "two subjects": ("subjects=[toy_mug,toy_duck]",),
    "dco": ("prior=generated", "tuner.dco_beta=1000"),
    "pull": ("tuner.pull=0.001",),
    "float, base's prediction": ("method=float", "prior=prompted", "prior.target=base"),
    "fp16, clipped": ("strategy=s2", "trainer.precision=16-mixed", "+trainer.gradient_clip_val=0.1"),
}
PLAIN = ("resources.cuda_graphs=false", "resources.kernels=eager")


def run(words: Sequence[str], outputs: Path) -> tuple[str, float, list[dict[str, Tensor]]]:
    """Run the chain; return the last line where it failed, its seconds, and the learned tensors of each artifact."""
    command = [sys.executable, "-m", "quantbooth.programs", "pipeline", *SHORT, *words, f"paths.outputs={outputs}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return f"exit {done.returncode}: {said[-1] if said else ''}", 0.0, []
    seconds, learned = 0.0, []
    for manifest in sorted(outputs.glob("store/*/*/manifest.json")):
        if (last := manifest.parent / f"step-{STEPS:06d}.safetensors").exists():
            seconds += json.loads(manifest.read_text())["measured"]["seconds"]
            learned.append(load_file(last))
    return "", seconds, learned


def difference(ones: list[dict[str, Tensor]], others: list[dict[str, Tensor]]) -> float:
    """Return the largest |a - b| / |b| of a tensor."""
    return max(
        float((one[name].double() - other[name].double()).norm() / other[name].double().norm().clamp(min=1e-12))
        for one, other in zip(ones, others, strict=True)
        for name in other
    )


def main() -> int:
    """Run all kinds, some at a time; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("outputs/bench-gpu-product"))
    parser.add_argument("--trainer", default="gpu")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0

    def both(kind: str) -> list[tuple[str, float, list[dict[str, Tensor]]]]:
        place = given.work.absolute() / re.sub(r"\W+", "-", kind)
        words = (f"trainer={given.trainer}", "trainer.precision=32-true", *KINDS[kind])
        return [run(words, place / "default"), run((*words, *PLAIN), place / "plain")]

    with (given.out / "product.csv").open("w") as file, ThreadPoolExecutor(given.at_once) as pool:
        rows = csv.writer(file)
        rows.writerow(["kind", "seconds", "seconds plain", "difference", "error"])
        for kind, (default, plain) in zip(given.kinds, pool.map(both, given.kinds), strict=True):
            error = default[0] or plain[0]
            failed += bool(error)
            apart = "" if error else f"{difference(default[2], plain[2]):.1e}"
            rows.writerow([kind, default[1], plain[1], apart, error])
            file.flush()
            sys.stdout.write(f"{kind}: {default[1]:.1f} s, plain {plain[1]:.1f} s, difference {apart} {error}\n")
            sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
