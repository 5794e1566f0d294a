"""The whole chain at Stable Diffusion's true size: `python -m experiments.real_size.run --model sd15 --work DIR ...`.

A base of true architecture with random weights, real photos, the commands a person types, one after the other, each a
process of its own whose wall time and peak resident memory are noted. With `--export` the folder for diffusers is
written too, and another process that knows only diffusers draws a picture from the same noise. What is there already is
not made again, so a stopped run goes on; a command that found its work done keeps the row of when it did it.
With `--plan` the table has what `quantbooth-plan` counts for the same options too. With `--device cuda` commands
compute on the GPU; the most memory of it that was in use, by whatever program, is noted too, in a table of its own.
"""

import json
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from experiments.bench.machine import facts
from quantbooth.reporting.tables import markdown

__all__ = ["document", "main", "timed"]

FOLDER = Path(__file__).parent
RESOLUTION = {"sd15": 512, "sdxl": 1024, "sd35-medium-without-t5": 1024, "tiny": 64, "tiny-xl": 64}
BASES = {"tiny": "sd15", "tiny-xl": "sdxl", "sd35-medium-without-t5": "sd35_medium"}
FLOW = {"sd35-medium-without-t5": ["sampler=flow_euler"]}
VERBS = ["calibrate", "tune", "sample", "evaluate"]
USUAL = (
    *(
        "sampler.steps=2",
        "tuner.steps=2",
        "preview.validation_steps=0",
        "tuner.learning_rate=0.01",
        "tuner.train_batch_size=1",
    ),
    *(
        "prior.num_class_images=1",
        "prior.class_batch_size=1",
        "protocol.prompt_stride=13",
        "calibration=mse",
        "strategy=s2",
        "locator=whole",
    ),
    "scorer=clip_b32",
)
"""Two steps of everything: what is asked is whether it runs, and what it takes."""
GB, TICK = 1e9, 0.05
STEP = "tune, its step"
STAGES = {
    "calibrate": ("calibration",),
    "tune": ("encoding", "tuning"),
    STEP: ("tuning",),
    "sample": ("encoding", "sampling"),
    "evaluate": ("scoring",),
}
"""Commands, and the stages of a plan that they go through."""
MEMORY = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
PLANNED = re.compile(r"^  (\w+) +([\d.]+) ([MG])B", re.MULTILINE)
Row = dict[str, Any]


def main() -> int:
    """The program; the exit code of the first command that failed, else 0."""
    options = _options()
    file = options.folder / f"{_name(options)}.json"
    result: Row = json.loads(file.read_text()) if file.exists() else {"commands": {}}
    chosen = [*USUAL, *(["trainer=gpu"] if options.device == "cuda" else []), *options.options]
    words = [*_places(options), *chosen]
    result |= {"model": options.model, "subject": options.subject, "options": chosen}
    for name, command in _commands(options, words).items():
        if name in result["commands"] and result["commands"][name]["code"] == 0:
            continue
        print(f"{name} ...", flush=True)  # noqa: T201
        row = timed(command, options.work / "log.txt", options.device)
        result["commands"][name] = row
        result["machine"] = facts()
        file.write_text(json.dumps(result, indent=1))
        file.with_suffix(".md").write_text(document(result))
        if row["code"]:
            print(f"{name} ended with {row['code']}, see {options.work / 'log.txt'}")  # noqa: T201
            return int(row["code"])
    if options.plan:
        command = [sys.executable, "-m", "quantbooth.programs", "plan", *words]
        result["planned"] = planned(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        file.write_text(json.dumps(result, indent=1))
        file.with_suffix(".md").write_text(document(result))
    return 0


def planned(lines: str) -> dict[str, float]:
    """The peaks in GB of what `quantbooth-plan` says, libraries included, by command."""
    found = {stage: float(size) / (1 if unit == "G" else 1000) for stage, size, unit in PLANNED.findall(lines)}
    return {name: max(found[stage] for stage in stages) for name, stages in STAGES.items() if found.keys() >= {*stages}}


def timed(command: list[str], log: Path, device: str = "cpu") -> Row:
    """Run a command: its exit code, wall seconds, and the most memory that was resident, files it maps included.

    With device="cuda" also the most memory of the GPUs that was in use, by whatever program.

    Memory is looked at every `TICK` seconds, so what is held for a shorter time at the very end may be missed.
    """
    begin, peak, card = time.perf_counter(), 0, 0.0
    with open(log, "a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            card = max(card, _card_gb()) if device == "cuda" else card
            time.sleep(TICK)
    seconds = time.perf_counter() - begin
    found = {"code": process.returncode, "seconds": round(seconds, 1), "peak_gb": round(peak / GB, 2)}
    return found | ({"card_gb": round(card, 2)} if device == "cuda" else {})


def _card_gb() -> float:
    said = subprocess.run(MEMORY, check=True, capture_output=True, text=True).stdout
    return sum(map(float, said.split())) * 2**20 / GB


def _peak(pid: int) -> int:
    """Bytes; what the kernel keeps for `wait` would hold the parent's own memory too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def document(result: Row) -> str:
    """The table in Markdown."""
    header, counted = ["command", "seconds", "peak GB"], result.get("planned")
    done = {name: row for name, row in result["commands"].items() if row["code"] == 0}
    rows = [[name, f"{row['seconds']:.0f}", f"{row['peak_gb']:.1f}"] for name, row in done.items()]
    if any("card_gb" in row for row in done.values()):
        header = [*header, "card's GB"]
        rows = [[*row, f"{one['card_gb']:.1f}"] for row, one in zip(rows, done.values(), strict=True)]
    if counted:
        header = [*header, "planned GB"]
        rows = [[*row, f"{counted[row[0]]:.1f}" if row[0] in counted else "-"] for row in rows]
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items() if value is not None)
    about = f"{result['model']}, random weights, photos of {result['subject']}: `{' '.join(result['options'])}`"
    return "\n\n".join([about, markdown(header, rows), f"Machine: {machine}.\n"])


def _commands(options: Namespace, words: list[str]) -> dict[str, list[str]]:
    python, made = sys.executable, {}
    base, clip = str(options.work / options.model), str(options.work / "clip")
    if not (options.work / options.model).exists():
        made["random_base"] = [python, "-m", "experiments.random_base", "--model", options.model, "--folder", base]
    if not (options.work / "clip").exists():
        made["clip"] = [python, "-m", "experiments.random_base", "--model", "clip", "--folder", clip]
    made |= {verb: [python, "-m", "quantbooth.programs", verb, *words] for verb in options.verbs}
    if options.export:
        made["export"] = [
            python,
            "-m",
            "quantbooth.programs",
            "export",
            *words,
            f"export.folder={options.work / 'export'}",
        ]
        made["plain diffusers"] = [python, "-m", "experiments.real_size.plain", str(options.work), *words]
    return made


def _places(options: Namespace) -> list[str]:
    work, side = options.work, RESOLUTION[options.model]
    return [
        *(f"base={BASES.get(options.model, options.model)}", f"base.path={work / options.model}"),
        *FLOW.get(options.model, []),
        *(f"base.resolution={side}", f"subject={options.subject}", f"paths.dreambooth={options.photos}"),
        *(f"scorer.encoder.model='local-dir:{work / 'clip'}'", f"paths.outputs={work / ('out-' + _name(options))}"),
    ]


def _name(options: Namespace) -> str:
    return str(options.model) + ("-cuda" if options.device == "cuda" else "")


def _options() -> Namespace:
    parser = ArgumentParser("experiments.real_size.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=list(RESOLUTION), default="sd15")
    parser.add_argument("--work", type=Path, required=True, help="where the base and everything made lie")
    parser.add_argument("--photos", type=Path, required=True, help="DreamBooth's data set: a folder for each subject")
    parser.add_argument("--subject", default="dog")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--export", action="store_true", help="write the folder for diffusers, and draw with it alone")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where commands compute")
    parser.add_argument("--plan", action="store_true", help="add what quantbooth-plan counts for the same options")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table goes")
    parser.add_argument("options", nargs="*", help="more options of all commands")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
