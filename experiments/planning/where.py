"""What runs where: the peak of each stage by base and preset: python -m experiments.planning.where --work DIR

DIR gets folders of the bases' true architectures without weights. Peaks are kept in where.json, and what is in it is
not counted again; `--minutes` ends between two plans. where.md is made of it.
"""

import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import hydra

from experiments.random_base import write_configs
from quantbooth.reporting.tables import markdown
from quantbooth.run.planned import on_card, stages
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.hydra_versions import BASE

__all__ = ["table"]

FILE = Path(__file__).with_name("where.json")
BASES = {"sd15": "sd15", "sdxl": "sdxl", "sd35_medium": "sd35-medium", "klein_4b": "klein-4b"}
PRESETS = {"8gb": 8, "12gb": 12, "16gb": 16, "24gb": 24, "cpu": None}
STAGES = ("calibration", "encoding", "tuning", "sampling")
GB = 1e9


def peaks(base: str, preset: str, folder: Path) -> dict[str, int]:
    """Return the peak of each stage, in bytes without libraries."""
    with hydra.initialize_config_dir(str(conf_dir()), **BASE):
        cfg = hydra.compose("quantbooth", [f"base={base}", f"base.path={folder}", f"preset={preset}"])
    run = Run(cfg)
    assert on_card(run) is (preset != "cpu")
    return {name: count().peak for name, count in stages(run).items()}


def table(known: dict[str, dict[str, int]]) -> str:
    """Return a line for each plan: peaks in GB, and whether all fit."""
    lines = []
    for name, found in known.items():
        base, preset = name.split()
        room, highest = PRESETS[preset], max(found.values()) / GB
        fits = "-" if room is None else "yes" if highest <= room else f"no, {max(found, key=lambda one: found[one])}"
        lines.append((base, preset, *(f"{found[stage] / GB:.2f}" for stage in STAGES), f"{highest:.2f}", fits))
    return markdown(("base", "preset", *STAGES, "highest", "fits"), lines)


def main() -> int:
    """Count what is not counted yet, and write the table."""
    parser = ArgumentParser("experiments.planning.where", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    known: dict[str, dict[str, int]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    for preset in options.presets:
        for base in options.bases:
            folder = options.work / BASES[base]
            if not folder.exists():
                write_configs(BASES[base], folder)
            if f"{base} {preset}" not in known and time.monotonic() < until:
                known[f"{base} {preset}"] = peaks(base, preset, folder)
                FILE.write_text(json.dumps(known, indent=1) + "\n")
    order = [f"{base} {preset}" for base in BASES for preset in PRESETS]
    FILE.with_suffix(".md").write_text(table({name: known[name] for name in order if name in known}))
    sys.stdout.write(f"{len(known)} of {len(order)} plans\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
