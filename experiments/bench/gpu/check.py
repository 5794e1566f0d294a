"""What one real card says: is every layer right on it, and what does a training step of each method take.

    python -m experiments.bench.gpu.check --out FOLDER --minutes 5 [--only "_graph|qlora"]

Writes correctness.json (each layer against a float64 twin on the CPU), steps.csv (a row a setting: median milliseconds
of a step and of its parts, peak and kept memory), profile-*.txt (kernels of a step by time) and summary.txt. It begins
no row when the minutes are up; the rows most wanted come first. Weights are random: time and memory do not depend on
them. Methods:

    ours            a scale set, gains of output channels
    ours_eager      the same, with PyTorch's operations instead of Triton's kernels
    ours_in_out     gains of input channels too
    ours_zones      three scale sets mixed in the batch; ours_subjects: eight
    lora            LoRA rank 4 on attention, frozen weights in float32; lora_half: in half precision
    qlora           LoRA on bitsandbytes' nf4 linears, the rest in float32
    qlora_packed    LoRA on our packed codes; lora_sdnq: on SDNQ's uint4, convolutions too, where `sdnq` is installed
    float           all weights (DreamBooth); peqa: scales as parameters of a fake-quantized weight

`graph` replays forward and backward as CUDA graphs (`quantbooth.tuning.graphs`), for every method alike; the optimizer
is PyTorch's fused AdamW. Milliseconds are wall time of a step that waits for the card.
"""

import argparse
import csv
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.bench.gpu.steps import Setting, profile, row, search
from experiments.bench.gpu.twins import correctness, same_weights

XL4: dict[str, Any] = {"size": "sdxl", "batch": 4, "checkpointing": True}
ROWS = [
    *[Setting("sd15", method) for method in ("ours", "ours_in_out", "lora_half")],
    *[Setting("sd15", method, graph=False) for method in ("ours", "lora_half", "qlora", "peqa", "float")],
    *[Setting("sd15", "qlora_packed"), Setting("sd15", "lora_sdnq", graph=False)],
    *[Setting(method="ours", **XL4), Setting(method="ours", graph=False, **XL4), Setting(method="ours_zones", **XL4)],
    *[Setting("sdxl", "ours", checkpointing=True), Setting("sdxl", "ours")],
    *[Setting(method="lora_half", **XL4), Setting(method="lora_half", graph=False, **XL4)],
    *[Setting("sdxl", "lora_half", checkpointing=True), Setting("sdxl", "lora_half")],
    *[Setting(method="qlora", graph=False, **XL4), Setting("sdxl", "qlora", graph=False, checkpointing=True)],
    *[Setting(method=method, graph=False, **XL4) for method in ("peqa", "lora_sdnq")],
    Setting(method="qlora_packed", **XL4),
    *[Setting("sd15", method, batch=4) for method in ("ours", "ours_zones", "ours_in_out", "lora_half")],
    *[Setting("sd15", method, batch=4, graph=False) for method in ("qlora", "peqa")],
    *[Setting("sd15", "ours_subjects", batch=8), Setting("sd15", "ours", batch=8)],
    *[Setting("sd15", method, checkpointing=True) for method in ("ours", "lora_half")],
    Setting("sd15", "qlora", graph=False, checkpointing=True),
    *[Setting("sd15", "ours_eager"), Setting("sd15", "lora"), Setting("sd15", "float"), Setting("sd15", "peqa")],
    *[Setting("sd15", "ours", precision) for precision in ("32", "fp16")],
    Setting(method="ours_in_out", **XL4),
    Setting("sdxl", "float", graph=False, checkpointing=True),
]
COLUMNS = ["size", "method", "precision", "batch", "checkpointing", "graph", "ms", "forward", "backward", "optimizer"]
COLUMNS += ["peak_gb", "built_gb", "kept_gb", "reserved_gb", "error"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", default="", help="a regular expression: rows whose name has it, and no profiles")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
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
        extras = [partial(search, "sd15"), partial(search, "sdxl")]
        extras += [partial(profile, Setting("sd15", method), given.out) for method in ("ours", "lora_half")]
        for extra in () if given.only else extras:
            if time.monotonic() < end + 20:
                try:
                    say(extra())
                except Exception as error:  # the others still count
                    say(f"{extra}: {type(error).__name__}: {str(error)[:200]}")


if __name__ == "__main__":
    main()
