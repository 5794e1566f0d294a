"""Fuzz the options: a command line of random words ends in success or in one line for each wrong option.

python -m experiments.reliability.fuzz --cases 10000           # options alone: composed, checked, no work
python -m experiments.reliability.fuzz --cases 300 --runs      # whole runs of a tiny base, small values

    outcome(words) = "accepted" | "refused" (a UserError or an error of Hydra, explained) | "traceback"
"""

import argparse
import contextlib
import io
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.reliability.record import write_counts
from experiments.reliability.tiny import QUICK, write_tiny_base
from quantbooth.commands import pipeline
from quantbooth.commands.probe import Probing
from quantbooth.run.degradation import Degradation
from quantbooth.run.run import Run
from quantbooth.runtime.config import choices, conf_dir
from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.options import require_kept, require_valid
from quantbooth.runtime.words import quoted

__all__ = ["Case", "Fuzzer", "main", "outcome"]

WHOLE = [-1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 25, 31, 32, 33, 64, 100, 999, 1000, 1001]
LARGE = [10**9, 10**9 + 1, 2**31, 2**63, -(2**63), 10**30]
REAL = ["0.5", "-0.5", "1e-9", "1e-3", "0.999999", "1.0", "1e9", "1e308", "-0.0", "nan", "inf", "-inf", "1e309"]
PLAIN = [
    *("null", "true", "false", "''", "[]", "{}", "[null]", "[[]]", "{a: 1}", "{a: {b: [1]}}", "[1,2,3]", "[0.1,0.2]"),
]
TEXTS = [
    *("abc", "auto", "../x", "/dev/null", "/dev/full", "a b", "a, b", "ü", "日本", "$x", "%s", "{}", "{0}"),
    *("\\frac{a}{b}", "$\\frac{"),
]
STRANGE = [
    *("${oc.env:HOME}", "${nope}", "${tuner.steps}", "${tuner}", "${..x}", "${", "???", "'", '"', "a=b", "a'b", "(a)"),
    *("[", "]", "{"),
]
LONG = ["x" * 5000, "[" + ",".join(["1"] * 500) + "]", "9" * 400]
FURTHER = (
    *("nope", "tuner.nope", "tuner.steps.nope", "x.y.z", "tuner.learning_rat", "hydra.nope", "base.zones.extra"),
    *("trainer.gradient_clip_val", "trainer.accumulate_grad_batches", "trainer.max_time", "trainer.strategy"),
    *("trainer.limit_train_batches", "trainer.gradient_clip_vall", "trainer.callbacks", "trainer.plugins"),
    *("strategy.interval", "strategy.zones", "strategy.count", "optimizer.eps", "optimizer.betas", "optimizer.nope"),
)
"""Options that no composed configuration has, or only with other choices."""
COMMANDS = {"pipeline": "quantbooth", "degradation": "degradation", "probe": "probe"}


@dataclass(frozen=True)
class Case:
    """A command and the words after it."""

    command: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.command, *(word if len(word) < 80 else f"{word[:60]}..." for word in self.words)])


class Fuzzer:
    """Draws cases; the same seed draws the same ones.

    Args:
        seed: of the draws.
        small: only values with which a run is short.
    """

    def __init__(self, seed: int, small: bool = False) -> None:
        self.random, self.small = random.Random(seed), small
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            of = {name: OmegaConf.to_container(compose(name)) for name in set(COMMANDS.values())}
        self.options = {name: dict(_leaves(values, "")) for name, values in of.items()}
        self.groups = {path.name: choices(path) for path in conf_dir().iterdir() if path.is_dir()}

    def cases(self, count: int) -> Iterator[Case]:
        """Yield `count` cases of one to three words."""
        for _ in range(count):
            command = "pipeline" if self.small else self.random.choice([*COMMANDS, *["pipeline"] * 3])
            words = [self._word(COMMANDS[command]) for _ in range(self.random.choice([1, 1, 1, 2, 3]))]
            yield Case(command, tuple(words))

    def _word(self, config_name: str) -> str:
        draw = self.random.random()
        if draw < 0.12:
            group = self.random.choice(sorted(self.groups))
            return f"{group}={self.random.choice([*self.groups[group], 'nope', 'null', '[a]', '3'])}"
        if draw < 0.2:
            return f"{self.random.choice(['+', '++', '', '~'])}{self.random.choice(FURTHER)}={self._value(None)}"
        option = self.random.choice(sorted(self.options[config_name]))
        prefix = self.random.choice(["", "", "", "", "", "", "+", "++", "~"])
        return f"{prefix}{option}={self._value(self.options[config_name][option])}"

    def _value(self, present: object) -> str:
        """Return a value near the present one, or any other."""
        if present is not None and self.random.random() < 0.6:
            return self._near(present)
        kinds: list[Sequence[Any]] = [WHOLE, WHOLE, REAL, PLAIN, TEXTS, STRANGE]
        kinds += [] if self.small else [LARGE, LONG]
        return str(self.random.choice(self.random.choice(kinds)))

    def _near(self, present: object) -> str:
        match present:
            case bool():
                return self.random.choice(["true", "false"])
            case int():
                return str(self.random.choice([present, present + 1, present - 1, 2 * present, present // 2, 1, 2]))
            case float():
                return str(self.random.choice([present, present / 2, present * 2, 10 * present, 0.1, 1.0]))
            case list():
                kept = present[: self.random.randrange(len(present) + 1)]
                return str([self._near(one) if one is not None else "null" for one in kept]).replace("'", "")
            case _:
                return self.random.choice([str(present), f"{present}x", "null"])


def outcome(case: Case, base: Path, folder: Path, runs: bool = False) -> tuple[str, str]:
    """Return how a case ends, and what is said: the lines of a refusal, or a traceback."""
    config_name = COMMANDS[case.command]
    given = [*QUICK, f"base.path={base}", *case.words, f"paths.outputs={folder}"]
    composed = False
    try:
        require_kept(given, config_name)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose(config_name, quoted(given, config_name))
        composed = True
        require_valid(cfg, config_name)
        _run(cfg) if runs else _check(case.command, cfg)
    except Exception as error:
        if not is_mistake(error) and (composed or not isinstance(error, ValueError)):  # as runtime.cli
            return "traceback", traceback.format_exc()
        said = explain(error)
        return ("refused", said) if said.strip() else ("silent", repr(error))
    return "accepted", ""


def _check(command: str, cfg: DictConfig) -> None:
    """Make every object of a run, and the names of its artifacts; nothing is computed."""
    run = Run(cfg)
    if command == "pipeline":
        pipeline.check(run)
    elif command == "degradation":
        str(Degradation(run).artifact.path)
    else:
        str(Probing(run).artifact.path)


def _run(cfg: DictConfig) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pipeline.job(cfg)


def _leaves(node: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if prefix or key != "hydra":
                yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def main() -> int:
    """Try the cases, write the counts, and print every case that ended wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", action="store_true", help="run each accepted case on a tiny base")
    parser.add_argument("--result", type=Path, help="the JSON file of the counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        base = write_tiny_base(Path(folder) / "base")
        for case in Fuzzer(options.seed, small=options.runs).cases(options.cases):
            ended, said = outcome(case, base, Path(folder) / "out", options.runs)
            counts[ended] += 1
            if ended not in ("accepted", "refused"):
                wrong.append({"case": str(case), "ended": ended, "said": said})
                sys.stdout.write(f"{ended}: {case}\n{said}\n")
    sys.stdout.write(f"{options.cases} cases of seed {options.seed}: {dict(counts)}\n")
    write_counts(options.result, {"cases": options.cases, "ended": dict(counts), "seed": options.seed, "wrong": wrong})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
