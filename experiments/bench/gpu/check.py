"""What one real card says: is every layer right on it, and what does a training step of each method take.

    python -m experiments.bench.gpu.check --out FOLDER --minutes 5 [--only "_graph|qlora"]

Writes correctness.json (each layer against a float64 twin on the CPU), steps.csv (a row a setting: median milliseconds
of a step and of its parts, peak and kept memory), profile-*.txt (kernels of a step by time) and summary.txt. It begins
no row when the minutes are up; the rows most wanted come first. Weights are random: time and memory do not depend on
them. Methods:

    ours            quantbooth's layers, eager
    ours_compiled   the same, `Packed.weight` compiled
    ours_triton     the same, `kernels.dequantize` in its place
    ours_fused      and the gain's forward and backward in one kernel each
    ours_folded     one set for the whole batch: gains in the weight, y kept in half precision
    lora            LoRA rank 4 on attention, frozen weights in float32; lora_half: in half precision
    qlora           LoRA on bitsandbytes' nf4 linears, the rest in float32
    float           all weights (DreamBooth); peqa: scales as parameters of a fake-quantized weight

`_cl` is channels_last, `_graph` replays forward, backward and optimizer as one CUDA graph.
"""

import argparse
import csv
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.bench.gpu.steps import Setting, profile, row
from experiments.bench.gpu.twins import correctness, same_weights

OURS = ("ours", "ours_triton", "ours_fused", "ours_folded")
ROWS = [
    *[Setting("sd15", f"{method}_graph") for method in (*OURS, "lora_half", "float")],
    *[Setting("sd15", method) for method in (*OURS, "lora_half", "lora", "qlora", "float", "peqa", "ours_compiled")],
    *[Setting("sd15", f"{method}_graph", batch=4) for method in (*OURS, "lora_half")],
    *[Setting("sd15", method, batch=4) for method in (*OURS, "lora_half", "qlora", "float")],
    *[Setting("sdxl", f"{method}_graph") for method in ("ours_fused", "ours_folded", "lora_half")],
    *[Setting("sdxl", method) for method in (*OURS, "lora_half", "qlora")],
    *[
        Setting(size, method, batch=batch, checkpointing=True)
        for size, batch in (("sd15", 1), ("sd15", 4), ("sdxl", 1), ("sdxl", 4))
        for method in ("ours", "ours_folded", "lora_half", "qlora")
    ],
    *[Setting("sd15", f"{method}_cl{end}") for method in ("ours_folded", "lora_half") for end in ("", "_graph")],
    *[Setting("sd15", "ours", precision) for precision in ("32", "fp16")],
    Setting("sdxl", "float", checkpointing=True),
]
COLUMNS = ["size", "method", "precision", "batch", "checkpointing", "ms", "forward", "backward", "optimizer"]
COLUMNS += ["peak_gb", "built_gb", "kept_gb", "error"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", default="", help="a regular expression: rows whose name has it, and no profiles")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    torch._dynamo.config.recompile_limit = 256
    with (given.out / "steps.csv").open("w") as file, (given.out / "summary.txt").open("w") as told:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()

        def say(line: str) -> None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            told.write(line + "\n")
            told.flush()

        card = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
        say(f"{card}; torch {torch.__version__}, CUDA {torch.version.cuda}")
        say(same_weights())
        say(correctness(given.out))
        for setting in ROWS:
            if not re.search(given.only, setting.name):
                continue
            if time.monotonic() > end:
                say(f"not run, the time is up: {setting.name}")
                continue
            found = row(setting)
            rows.writerow(found)
            file.flush()
            if found["error"]:
                say(f"{setting.name}: {found['error']}")
            else:
                kept = found.get("kept_gb", 0)
                say(f"{setting.name}: {found['ms']:.1f} ms, peak {found['peak_gb']:.2f} GB, kept {kept:.2f}")
        for method in () if given.only else ("ours", "ours_folded", "lora_half"):
            if time.monotonic() < end + 20:
                try:
                    say(profile(Setting("sd15", method), given.out))
                except Exception as error:
                    say(f"profile {method}: {type(error).__name__}: {str(error)[:200]}")


if __name__ == "__main__":
    main()
