"""quantbooth-verify: read every artifact of a store and compare each file with its checksum.

quantbooth-verify outputs/store
quantbooth-verify outputs/store --repair      make damaged artifacts again, by the options each was made with
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantbooth.commands.calibrate import calibrate, make_calibration_set
from quantbooth.commands.degradation import degradation, measure_float
from quantbooth.commands.evaluate import score
from quantbooth.commands.probe import Probing, probe
from quantbooth.commands.sample import render
from quantbooth.commands.tune import generate_prior, tune
from quantbooth.run.degradation import Degradation
from quantbooth.run.gradients import make_gradients
from quantbooth.run.run import Run
from quantbooth.runtime.ending import ended, said
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.help import fitted
from quantbooth.runtime.jobs import quiet_libraries
from quantbooth.runtime.progress import progress
from quantbooth.store.documents import read_options
from quantbooth.store.files import SHORT
from quantbooth.store.manifest import KINDS, open_artifact
from quantbooth.store.ownership import owning
from quantbooth.store.store import CONFIG, Artifact, Store

__all__ = ["artifacts", "faults", "main", "put_back", "repair"]

REPAIR = ".repair.lock"
DAMAGED = ".damaged"


def artifacts(store: Path) -> list[Path]:
    """Return the folders of all finished artifacts.

    Raises:
        UserError: when the folder is no store, or something else is where artifacts of a kind belong.
    """
    if not store.is_dir():
        raise UserError(f"no store at {store}; name the folder that paths.store is")
    if strange := [store / kind for kind in KINDS if os.path.lexists(store / kind) and not (store / kind).is_dir()]:
        raise UserError(f"{strange[0]} must be a folder of artifacts; remove it")
    places = [path for kind in KINDS for path in sorted((store / kind).glob("[!.]*"))]
    found = [path for path in places if path.is_dir() or path.is_symlink()]
    if not found:
        raise UserError(f"{store} holds no artifact; name the folder that paths.store is")
    return found


def faults(folders: list[Path]) -> dict[Path, str]:
    """Return what is wrong with each artifact that is not as it was written."""
    found = {folder: _fault(folder) for folder in progress(folders, "verifying")}
    return {folder: fault for folder, fault in found.items() if fault}


def _fault(folder: Path) -> str | None:
    try:
        digits = open_artifact(folder, folder.parent.name).fingerprint[:SHORT]
    except (UserError, OSError) as error:
        return explain(error)
    found = folder.name.endswith(f"-{digits}")
    return None if found else f"{folder} must end in -{digits} to be found; give it its name again"


def repair(store: Path, folder: Path) -> None:
    """Make a damaged artifact again; the damaged one is put back where that fails.

    Raises:
        UserError: when its options cannot be read, or make an artifact of another identity: nothing else is made.
    """
    artifact, make = _maker(store, folder)
    with artifact.owning():
        if _fault(folder) is None:  # another process made it again
            return
        aside = folder.with_name(f".{folder.name}{DAMAGED}")
        folder.rename(aside)
        try:
            make()
            open_artifact(folder, folder.parent.name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            raise
        shutil.rmtree(aside)


def put_back(store: Path) -> None:
    """Put damaged artifacts back that a killed repair had set aside, and remove what it left beside finished ones."""
    for aside in store.glob(f"*/.*{DAMAGED}"):
        folder = aside.with_name(aside.name[1 : -len(DAMAGED)])
        if folder.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(folder)
    for folder in artifacts(store):
        Store(store).tidy(folder)


def _maker(store: Path, folder: Path) -> tuple[Artifact, Callable[[], object]]:
    """Return the artifact of a folder, and what makes it from the options that lie in it.

    Damaged options make another identity, which is refused before anything is made.
    """
    refusal = f"the options in its {CONFIG} %s; remove {folder} and run its command again"
    try:
        values = read_options(folder / CONFIG)
        values["paths"]["store"] = str(store)
        found = [each for each in _makers(Run(OmegaConf.create(values)), folder) if each[0].path == folder]
    except UserError as error:
        raise UserError(refusal % f"cannot be used: {error}") from error
    except (ValueError, TypeError, LookupError, OmegaConfBaseException) as error:
        raise UserError(refusal % f"cannot be read ({type(error).__name__})") from error
    if not found:
        raise UserError(refusal % "make another artifact")
    return found[0]


def _makers(run: Run, folder: Path) -> Iterator[tuple[Artifact, Callable[[], object]]]:
    """Yield the artifacts of a run that are of a folder's kind, each with what makes it."""
    match folder.parent.name:
        case "calibration_set":
            if (spec := run.calibration.set_spec) is not None:
                yield spec.artifact, partial(make_calibration_set, run, spec)
        case "quantized_base":
            if (quantized := run.quantized_base) is not None:
                yield quantized, partial(calibrate, run)
        case "image_set":
            for one in run.subjects:
                yield one.prior, partial(generate_prior, one)
                yield from ((one.images(step), partial(render, run, step)) for step in run.steps)
        case "scores":
            yield from ((one.scores(step), partial(score, one, step)) for one in run.subjects for step in run.steps)
        case "damage":
            plan = Degradation(run)
            yield plan.reference, partial(measure_float, plan)
            yield plan.artifact, partial(degradation, run)
        case "probe":
            yield Probing(run).artifact, partial(probe, run)
        case "gradients":
            if (asked := run.plan.undecided) is not None:
                own = [(one, each) for one in run.subjects if (each := one.gradients) is not None]
                yield from ((each, partial(make_gradients, one, each, asked)) for one, each in own)
        case _:
            yield from ((one.tuned, partial(tune, run)) for one in run.subjects)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; write {self.prog} STORE, or {self.prog} STORE --repair")


def main() -> None:
    """Verify a store: exit code 0 when all is sound (or repaired), 1 when something is damaged, 2 for a mistake."""
    sys.exit(ended(_main))


def _main() -> int:
    parser = Parser(
        "quantbooth-verify", description=fitted(__doc__ or ""), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--repair", action="store_true", help="make damaged artifacts again")
    parser.add_argument(
        "--version", action="version", help="print the version", version=f"quantbooth {version('quantbooth')}"
    )
    given = parser.parse_args()
    quiet_libraries()
    store = given.store
    if not (given.repair and store.is_dir()):
        return _verify(store, given.repair)
    with owning(store / REPAIR, f"the repair of {store}"):  # one at a time, because each owns several artifacts
        put_back(store)
        return _verify(store, given.repair)


def _verify(store: Path, repairs: bool) -> int:
    folders = artifacts(store)
    damaged = faults(folders)
    for line in damaged.values():
        said(line)
    left = _repair_all(store, list(damaged)) if repairs else list(damaged)
    repaired = f", {len(damaged) - len(left)} made again" if repairs else ""
    sound = len(folders) - len(damaged)
    print(f"{store}: {len(folders)} artifacts, {sound} sound, {len(damaged)} damaged{repaired}")  # noqa: T201
    return 1 if left else 0


def _repair_all(store: Path, folders: list[Path]) -> list[Path]:
    """Make artifacts again, each after those that it is made from; return those that could not be made."""
    while folders:
        failed: dict[Path, str] = {}
        for folder in folders:
            try:
                repair(store, folder)
            except Exception as error:
                if not is_mistake(error):
                    raise
                failed[folder] = explain(error)
            else:
                said(f"made again: {folder}")
        if len(failed) == len(folders):
            for folder, reason in failed.items():
                said(f"not repaired: {folder}: {reason}")
            break
        folders = list(failed)
    return folders


if __name__ == "__main__":
    main()
