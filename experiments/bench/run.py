"""Measure memory and speed of training methods side by side: `python -m experiments.bench.run --help`.

Each case is a process; those of a group are alive at once and take turns step by step, so that what else the machine
does hits all alike, and never two compute at the same time. After each group `results.json` and `results.md` are
written; started again, the program goes on with what has no figures of the same code and machine.
"""

import sys
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from experiments.bench.budget import available_gb, groups
from experiments.bench.cases import BITS, MODULES, Case, Setting, settings, units
from experiments.bench.machine import commit, facts
from experiments.bench.results import Row, is_done, merged, missing_row, read, row_of, to_json, write
from experiments.bench.sizes import SIZES
from experiments.bench.table import document
from experiments.bench.worker_process import WorkerFailed, WorkerProcess
from quantbooth.runtime.errors import UserError

__all__ = ["main", "measured"]

FOLDER = Path(__file__).parent
LIBRARIES = {"lora": ("peft",), "qlora": ("peft", "bitsandbytes")}
SWITCH = {"off": False, "on": True}


def measured(group: list[Case], steps: int, warm_up: int, console: Console) -> list[Row]:
    """Measure the cases of a group in turns; one that fails gets a row without figures, and the others go on."""
    rows: dict[Case, Row] = {}
    with ExitStack() as stack:
        alive: dict[Case, WorkerProcess] = {}

        def ask(case: Case, command: str) -> Row:
            try:
                answer = alive[case].ask(command)
            except WorkerFailed as failure:
                console.print(f"  {case}: {failure}")
                rows[case] = missing_row(case, str(failure))
                alive.pop(case).end()
                return {}
            return answer

        built, taken = {}, {case: list[Row]() for case in group}
        for case in group:
            alive[case] = stack.enter_context(WorkerProcess(case))
            built[case] = ask(case, "build")
            console.print(f"  built {case}")
        for turn in range(warm_up + steps):
            for case in list(alive):
                taken[case].append(ask(case, "step"))
            console.print(f"  {'warm-up' if turn < warm_up else f'step {turn - warm_up + 1} of {steps}'}")
        for case in list(alive):
            if kept := ask(case, "kept"):
                rows[case] = row_of(case, built[case], taken[case], kept, warm_up)
    return [rows[case] for case in group]


def run(options: Namespace, console: Console) -> None:
    """Measure what is asked for and not yet done.

    Raises:
        UserError: for a choice that cannot be, found before anything is measured.
    """
    chosen = list(
        settings(options.model, options.latents, [SWITCH[word] for word in options.checkpointing], options.device)
    )
    _require(options)
    file, code, machine = options.folder / "results.json", commit(), facts()
    for setting in chosen:
        done = [] if options.again else read(file)
        asked = units(setting, options.methods, options.bits)
        todo = [unit for unit in asked if not all(is_done(case, done, code, machine) for case in unit)]
        room = options.memory_gb or available_gb(setting.device)
        found, left_out = groups(todo, room)
        _save(file, [missing_row(case, reason) for case, reason in left_out.items()], code, machine)
        for case, reason in left_out.items():
            console.print(f"{_named(setting)}: {case} is left out: {reason}")
        for number, group in enumerate(found, start=1):
            console.print(f"{_named(setting)}: group {number} of {len(found)}, {len(group)} processes in {room:.0f} GB")
            rows = measured(group, options.steps, options.warm_up, console)
            beside = rows[0]["steps_s"]  # a group begins with the reference
            _save(file, [{**row, "reference_steps_s": beside} for row in rows], code, machine)


def _save(file: Path, rows: list[Row], code: str, machine: Row) -> None:
    complete = [{"reference_steps_s": [], **row, "machine": machine, "commit": code} for row in rows]
    everything = merged(read(file), complete)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, to_json(everything))
    write(file.with_suffix(".md"), document(everything))


def _named(setting: Setting) -> str:
    checkpointing = "with" if setting.checkpointing else "without"
    return f"{setting.model}, {setting.latents}x{setting.latents} latents, {checkpointing} checkpointing"


def _require(options: Namespace) -> None:
    for method in options.methods:
        for library in LIBRARIES.get(method, ()):
            if find_spec(library) is None:
                raise UserError(f"{method} needs {library}: install quantbooth's extra [bench], as `make bench` does")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device must be cpu where there is no GPU, got {options.device!r}")
    if options.steps < 1 or options.warm_up < 0:
        raise UserError(f"steps must be at least 1 and warm-up 0, got {options.steps} and {options.warm_up}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser("experiments.bench.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", nargs="+", choices=SIZES, default=["sd15", "sdxl"])
    parser.add_argument("--latents", nargs="+", type=int, default=[32, 64], help="sides of the latents")
    parser.add_argument("--checkpointing", nargs="+", choices=SWITCH, default=list(SWITCH))
    parser.add_argument("--methods", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=list(BITS), help="of quantbooth alone")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--memory-gb", type=float, help="what processes may take together, instead of what is free")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results.json and results.md are")
    parser.add_argument("--again", action="store_true", help="measure anew what has figures already")
    return parser


def main() -> int:
    """The program; the exit code."""
    try:
        run(_parser().parse_args(), Console(highlight=False, soft_wrap=True))
    except UserError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
