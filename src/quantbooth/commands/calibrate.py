"""quantbooth-calibrate: make a quantized base from a float one.

quantbooth-calibrate base=toy quant=w4 calibration=qdiffusion
quantbooth-calibrate base=toy quant=w4a8 calibration=qdiffusion    # and its activations, in simulated integers
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.calibration.adaround import AdaRoundCalibration, AdaRoundConfig, BlockResult
from quantbooth.calibration.blocks import Block
from quantbooth.calibration.calibration_set import CalibrationSet, generate_calibration_set
from quantbooth.calibration.layerwise import quantize_layers_
from quantbooth.calibration.lsq import LSQCalibration, LSQConfig
from quantbooth.calibration.quantized_attention import Bits
from quantbooth.calibration.quantized_base import WEIGHTS, write_blocks, write_quantized_denoiser
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import denoiser_by_layers
from quantbooth.quant.surgery import Replaced, matching, with_inputs
from quantbooth.run.as_stored import require_own_layers
from quantbooth.run.calibration import CalibrationSetSpec
from quantbooth.run.models import base_with
from quantbooth.run.prompts import require_read
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.loggers import close, log_values
from quantbooth.runtime.profiling import profile
from quantbooth.store.progress import Progress
from quantbooth.store.store import Artifact

__all__ = ["calibrate", "check_job", "job", "layers"]

UNUSED = ("resources.group_offload",)
"""Of tuning and drawing."""


@dataclass(frozen=True)
class CalibrationResult:
    """A base with a quantized denoiser, its quantized layers and attentions, figures, and errors of blocks, if any."""

    base: Base
    replaced: list[Replaced]
    figures: dict[str, float | str]
    blocks: list[dict[str, Any]]
    attention: Bits | None = None


def calibrate(run: Run) -> Path:
    """Quantize the denoiser of the base; return the folder of the quantized base."""
    artifact = _required(run)
    return artifact.get_or_make(partial(quantize, run, artifact))


def _required(run: Run) -> Artifact:
    """Return the quantized base as an artifact, which can be made."""
    require_own_layers(run.settings, "quantbooth-calibrate")
    run.check("quantized_base")
    artifact = run.quantized_base
    if artifact is None:
        raise UserError("quant=fp does not quantize, so there is nothing to calibrate; choose quant=w8, w4, w3 or w2")
    layers(run, run.outline)  # patterns that leave none are refused before any work
    return artifact


def quantize(run: Run, artifact: Artifact) -> None:
    """Make the quantized base, and its calibration set before."""
    calibration = run.calibration
    set_spec, config, activations = calibration.set_spec, calibration.rounding, calibration.lsq
    if config is not None or activations is not None:
        run.trackers("")  # one that cannot be reached ends the run before any work
    if set_spec is not None:
        require_read(run, [question.text for question in set_spec.questions.each])
        make_calibration_set(run, set_spec)
    with artifact.writing(run.settings) as draft:
        progress = Progress(draft.unfinished)
        with profile() as cost:
            states = None if set_spec is None else CalibrationSet(set_spec.artifact.require())
            if states is None or config is None:
                made = to_nearest(run)
            else:
                made = as_learned(run, config, states, progress)
            if states is not None and activations is not None:
                made = with_activations(run, made, activations, states, Progress(progress.folder / "activations"))
            write_quantized_denoiser(draft.path, made.base.denoiser, made.replaced, made.attention)
            write_blocks(draft.path, made.blocks)
        draft.contents.update(base=run.base_fingerprint)
        draft.measured.update(
            layers=len(made.replaced),
            file_bytes=(draft.path / WEIGHTS).stat().st_size,
            **made.figures,
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )
    progress.clear()


def layers(run: Run, base: Base) -> tuple[list[str], Any]:
    """Return the names of the layers to quantize, and the splits of some."""
    names = matching(base.denoiser, *run.calibration.layers)
    return names, run.calibration.splits(base, names)


def make_calibration_set(run: Run, set_spec: CalibrationSetSpec) -> None:
    """Generate the calibration set, once per base and choice of options."""
    set_spec.artifact.get_or_make(partial(generate_set, run, set_spec))


def generate_set(run: Run, set_spec: CalibrationSetSpec) -> None:
    """Generate the calibration set and write it."""
    with set_spec.artifact.writing(run.settings) as draft:
        with profile() as cost:
            base = base_with(run, None)
            what = f"generating {set_spec.artifact.label}"
            generate_calibration_set(
                base, set_spec.source, set_spec.prompt_batches, set_spec.count, draft.path, run.loop, what
            )
        draft.measured.update(
            items=2 * set_spec.count * len(set_spec.questions.each),
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
        )


def to_nearest(run: Run) -> CalibrationResult:
    """Round every weight to the nearest code, layer by layer; the float denoiser is never in memory whole."""
    run.check()
    base, read = denoiser_by_layers(run.base_folder, run.base_name)
    names, splits = layers(run, base)
    what = f"quantizing {run.calibration.name}"
    replaced, errors = quantize_layers_(base.denoiser, names, run.calibration.search, splits, run.loop, what, read)
    return CalibrationResult(base, replaced, {"mean_weight_error": sum(errors.values()) / len(errors)}, [])


def as_learned(run: Run, config: AdaRoundConfig, items: CalibrationSet, progress: Progress) -> CalibrationResult:
    """Learn the rounding block by block; an interrupted run resumes at its block."""
    base = base_with(run, None).denoiser_alone
    names, splits = layers(run, base)
    trackers, trainer = run.trackers(progress.folder.name), partial(run.trainer, max_steps=config.iterations)
    base.denoiser.to(run.loop.device)
    rounding = AdaRoundCalibration(base, names, splits, run.calibration.search, config, items, trainer)
    blocks: list[dict[str, Any]] = []

    def note(number: int, outcome: BlockResult) -> None:
        blocks.append({"block": outcome.block.name, "layers": len(outcome.block.layers), **outcome.errors})
        log_values(trackers, {f"block/{name}": error for name, error in outcome.errors.items()}, step=number)

    try:
        rounding.run(progress, note)
    finally:
        close(trackers)
    kept = [min(block["nearest"], block["learned"]) / (block["nearest"] or 1) for block in blocks]
    return CalibrationResult(
        rounding.quantized, rounding.replaced, {"mean_block_error_kept": sum(kept) / len(kept)}, blocks
    )


def with_activations(
    run: Run, made: CalibrationResult, config: LSQConfig, items: CalibrationSet, progress: Progress
) -> CalibrationResult:
    """Quantize the activations too; an interrupted run resumes at its block."""
    activations = run.calibration.activations
    assert activations is not None
    bits, softmax = activations.inputs, activations.softmax
    trackers = run.trackers(f"{progress.folder.parent.name}-activations")
    trainer = partial(run.trainer, max_steps=max(1, config.iterations))
    blocks = {block["block"]: block for block in made.blocks}

    def note(number: int, block: Block, errors: Mapping[str, float]) -> None:
        about = blocks.get(block.name, {"block": block.name, "layers": len(block.layers)})
        blocks[block.name] = {**about, **errors}
        log_values(trackers, {f"block/{name}": error for name, error in errors.items()}, step=number)

    made.base.denoiser.to(run.loop.device)
    try:
        work = LSQCalibration(made.base, activations, config, items, run.loop, trainer)
        attention = work.run(progress, lambda: base_with(run, None).denoiser_alone, note)
    finally:
        close(trackers)
    about_activations = {
        "activations": f"simulated integers of {bits} bits, softmax {f'{softmax} bits' if softmax else 'float'}"
    }
    replaced = with_inputs(made.base.denoiser, made.replaced, bits)
    return replace(
        made,
        replaced=replaced,
        figures={**made.figures, **about_activations},
        blocks=list(blocks.values()),
        attention=attention,
    )


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    _required(Run(cfg))


def job(cfg: DictConfig) -> Path:
    """Run the command on one configuration."""
    return calibrate(Run(cfg))
