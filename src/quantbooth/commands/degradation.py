"""quantbooth-degradation: measure what quantization alone does to a base, per setting, without tuning.

quantbooth-degradation quant=w4
quantbooth-degradation -m quant=fp,w8,w4,w3,w2 calibration=minmax,mse
quantbooth-degradation -m quant=w4 'quant.exclude=[conv_in,conv_out],[]'

Each setting is calibrated if needed, and becomes an artifact; a finished measurement is reused. A comma between lists
sweeps over lists (quote them for the shell): `[conv_in,conv_out]` leaves the first and the last convolution float, `[]`
quantizes all. At the end degradation.document compares all settings of the command.
"""

import shlex
import sys
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from quantbooth.calibration.quantized_base import WEIGHTS
from quantbooth.commands.calibrate import calibrate, layers
from quantbooth.degradation.document import write_document
from quantbooth.degradation.files import (
    KIND,
    PICTURES,
    TRUTH,
    Reference,
    read_degradation,
    read_reference,
    write_degradation,
    write_reference,
    write_truth,
)
from quantbooth.run.degradation import Degradation
from quantbooth.run.models import base_with
from quantbooth.run.offloading import offload_, require_offload
from quantbooth.run.options import require_places, require_untouched
from quantbooth.run.prompts import require_read
from quantbooth.run.run import Run
from quantbooth.runtime.config import plain
from quantbooth.runtime.profiling import profile
from quantbooth.store.files import SHORT

__all__ = ["check_job", "conclude", "degradation", "job"]


def degradation(run: Run) -> list[Path]:
    """Measure one setting and the float base; return the folders of both."""
    plan = _plan(run)
    reference = plan.reference.get_or_make(partial(measure_float, plan))
    measured = plan.artifact.get_or_make(lambda: measure_quantized(plan, calibrate(run)))
    return list(dict.fromkeys((reference, measured)))


def _plan(run: Run) -> Degradation:
    """Return the measurement of one setting, which can be made."""
    plan = Degradation(run)
    require_read(run, [question.text for question in plan.measurement.questions.each])
    if run.quantized_base is not None:
        require_offload(run)
        layers(run, run.outline)  # patterns that leave none are refused before any work
    return plan


def measure_float(plan: Degradation) -> None:
    """Measure the float base: its pictures, predictions, and scores of the true pictures where they are known."""
    measurement = plan.measurement
    measurement.check_judges(plan.run.settings["base"]["resolution"])
    with plan.reference.writing(plan.run.settings) as draft:
        with profile() as cost:
            base, pictures = base_with(plan.run, None), draft.path / PICTURES
            x_0 = measurement.encode(base, measurement.generate_reference(base, pictures))
            errors, predicted = measurement.predict(base, x_0, None, "float")
            write_reference(draft.path, Reference(x_0, predicted))
            file_bytes = sum(tensor.nbytes for tensor in base.denoiser.state_dict().values())
            record = plan.record(base, file_bytes, draft.fingerprint, None)
            write_degradation(draft.path, record, errors, measurement.judge(pictures, pictures, "float"))
            if measurement.questions.pictures is not None:
                truth = measurement.write_truth(draft.path / TRUTH)
                write_truth(draft.path, measurement.judge(truth, truth, "true pictures"))
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)


def measure_quantized(plan: Degradation, quantized: Path) -> None:
    """Measure the quantized base of this setting, with the same noise and triples as the float one."""
    measurement, compared = plan.measurement, plan.reference.require()
    with plan.artifact.writing(plan.run.settings) as draft:
        with profile() as cost:
            base, pictures = base_with(plan.run, quantized), draft.path / PICTURES
            offload_(plan.run, base)
            reference, what = read_reference(compared), plan.artifact.label
            measurement.generate(base, pictures, measurement.pictures, what)
            errors, _ = measurement.predict(base, reference.latents, reference, what)
            rows = measurement.judge(pictures, compared / PICTURES, what)
            file_bytes = (quantized / WEIGHTS).stat().st_size
            record = plan.record(base, file_bytes, plan.reference.manifest().fingerprint, quantized)
            write_degradation(draft.path, record, errors, rows)
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)


def conclude(jobs: list[tuple[DictConfig, list[Path]]]) -> None:
    """Write a document over all finished settings and those of degradation.compare_with, or one for each place."""
    places: dict[str, list[tuple[DictConfig, list[Path]]]] = {}
    for cfg, paths in jobs:
        places.setdefault(_place(cfg), []).append((cfg, paths))
    for of_place in places.values():
        _write(of_place)


def _place(cfg: DictConfig) -> str:
    """Return where a document and its files are written."""
    return " with ".join(dict.fromkeys([cfg.degradation.document, cfg.degradation.folder]))


def _write(jobs: list[tuple[DictConfig, list[Path]]]) -> None:
    """Write the document of the jobs of one place."""
    options = plain(jobs[-1][0])["degradation"]
    folders = [path for _, paths in jobs for path in paths] + [Path(path) for path in options["compare_with"]]
    found = [read_degradation(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    typed = shlex.join(["quantbooth-degradation", *sys.argv[1:]])
    folder, page = (Path(options[place]).expanduser() for place in ("folder", "document"))
    write_document(found, page, folder, options["shown"], [*options["notes"], f"Made by `{typed}`."])
    print(f"the document: {page}")  # noqa: T201  # what a person looks for next


def _required(cfg: DictConfig) -> Run:
    """Return a run whose options this command uses, and whose document can be written."""
    run = Run(cfg)
    require_untouched(run.settings, "quantbooth-degradation")
    require_places(run.settings, "degradation")
    return run


def check_job(cfg: DictConfig) -> dict[str, object]:
    """Refuse what the job cannot do, before the first job of a sweep; return what one document needs alike."""
    plan = _plan(_required(cfg))
    plan.measurement.check_judges(plan.run.settings["base"]["resolution"])
    reference, _ = plan.run.store.place(KIND, plan.reference.identity, plan.reference.label)
    return {f"float base, scorer, sampler and choice of questions in {_place(cfg)}": reference[:SHORT]}


def job(cfg: DictConfig) -> list[Path]:
    """Run the command on one configuration."""
    return degradation(_required(cfg))
