"""The plan of a run: its options to the peak of each stage, without its data, its weights or its device."""

from collections.abc import Iterator
from functools import partial

import torch

from quantbooth.data.protocol import AUTO
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.outline import outline
from quantbooth.evaluation.encoders import FOLDER, empty_clip
from quantbooth.planning.stages import Peak, Quantized, Tuned, calibrating, encoding, sampling, scoring, tuning
from quantbooth.quant.surgery import NO_SPLITS, matching
from quantbooth.run.run import Run
from quantbooth.runtime.config import build
from quantbooth.tuning.files import precision_of
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import IdentifierTuner

__all__ = ["on_card", "peaks", "require_planned", "uncounted"]


def on_card(run: Run) -> bool:
    """Return whether the trainer computes on a GPU."""
    return bool(run.settings["trainer"]["accelerator"] not in ("cpu", "auto"))


def peaks(run: Run) -> Iterator[Peak]:
    """Yield the peak of each stage of a run.

    Raises:
        UserError: for options that do not fit together, and for a base that is not there.
    """
    require_planned(run)
    quantized, plan = _quantized(run), _tuned(run)
    made = partial(_made, run, quantized)
    if quantized.names:
        yield calibrating(outline(run.base_folder, run.base_name), quantized, run.calibration.search)
    yield encoding(made())
    yield tuning(made, plan)
    yield sampling(made, plan, 1 if run.protocol.batch == AUTO else int(run.protocol.batch))
    if (model := _clip(run)) is not None:
        network, side = empty_clip(model)
        yield scoring(network, side, run.protocol.scored)


def require_planned(run: Run) -> None:
    """Refuse options that do not fit together, as a run does, without its data and its device.

    Raises:
        UserError: for the first.
    """
    for part in ("outline", "plan", "recipe", "timestep_sampler", "protocol", "sampler"):
        getattr(run, part)
    _tuned(run)


def uncounted(run: Run) -> Iterator[str]:
    """Yield what a plan leaves out of these options."""
    calibration = run.settings["calibration"]
    if run.calibration.bits is not None and (calibration["rounding"] or run.calibration.activations):
        yield "learned rounding and activations, which train block by block (calibration.rounding, quant.act_bits)"
    if _clip(run) is None:
        yield "scorer.encoder, which is no published CLIP"
    judges = {"locator": run.settings["locator"], "dino": run.settings.get("dino")}
    if named := [name for name, node in judges.items() if node and "folder" in node]:
        yield f"the networks of {' and '.join(named)}"
    if run.plan.undecided is not None:
        yield "the measurement of gradients that decides the borders of zones"


def _clip(run: Run) -> str | None:
    """Return the model of open_clip that scores; None for another encoder, and for one of a folder."""
    model = run.settings["scorer"]["encoder"].get("model")
    return None if model is None or str(model).startswith(FOLDER) else str(model)


def _made(run: Run, quantized: Quantized) -> Base:
    base = frozen(outline(run.base_folder, run.base_name))
    for network in base.text_encoders:  # large ones are read in the precision of their files
        if isinstance(network, base.family.large_texts):
            network.to(network.config.dtype or torch.float32)
    quantized.apply_(base.denoiser)
    return base


def _quantized(run: Run) -> Quantized:
    if run.calibration.bits is None:
        return Quantized()
    include, exclude, split = run.calibration.layers
    names = matching(run.outline.denoiser, include, exclude)
    return Quantized(names, run.calibration.bits, run.outline.skip_splits() if split else NO_SPLITS)


def _tuned(run: Run) -> Tuned:
    settings, resources = run.settings, run.settings["resources"]
    tuner = build(run.cfg.tuner.learner, Tuner)
    tuner.check(run.plan, run.calibration.bits)
    if settings["tuner"]["identifier"]:
        tuner = IdentifierTuner(tuner, f"a photo of {settings['base']['identifier']}", "a photo of")
    return Tuned(
        tuner=tuner,
        strategy=run.plan,
        recipe=run.recipe,
        optimizer=optimizer_factory(settings["optimizer"]),
        subjects=len(settings["subjects"] or [None]),
        checkpointing=resources["gradient_checkpointing"],
        cached=resources["cache_latents"],
        identifier=settings["tuner"]["identifier"],
        precision=settings["trainer"]["precision"],
        card=on_card(run),
        save_dtype=precision_of(resources["save_dtype"]),
    )
