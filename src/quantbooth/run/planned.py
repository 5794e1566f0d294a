"""The plan of a run: its options to the peak of each stage, without its data, its weights or its device."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import cast

from omegaconf import DictConfig, OmegaConf

from quantbooth.data.protocol import AUTO
from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.outline import outline
from quantbooth.evaluation.encoders import FOLDER, empty_clip
from quantbooth.planning.stages import Peak, Quantized, Tuned, calibrating, encoding, sampling, scoring, tuning
from quantbooth.quant.kernels.choice import EAGER
from quantbooth.quant.surgery import matching
from quantbooth.run.as_stored import require_own_layers
from quantbooth.run.offloading import require_offload
from quantbooth.run.run import Run
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.files import precision_of
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import IdentifierTuner

__all__ = ["advice", "on_card", "require_planned", "stages", "uncounted"]

ADVICE = {
    "tuning": (
        *("resources.gradient_checkpointing=true", "resources.cache_latents=true", "tuner.train_batch_size=1"),
        *("trainer.precision=bf16-mixed", "prior.class_batch_size=1", "resources.group_offload=true"),
    ),
    "sampling": ("protocol.batch=1", "trainer.precision=bf16-mixed", "resources.group_offload=true"),
}
"""Options that lower the peak of a stage and leave the method as it is, the cheapest first."""


def on_card(run: Run) -> bool:
    """Return whether the trainer computes on a GPU."""
    return bool(run.settings["trainer"]["accelerator"] not in ("cpu", "auto"))


def stages(run: Run) -> dict[str, Callable[[], Peak]]:
    """Return what counts the peak of each stage of a run, by the stage's name.

    Raises:
        UserError: for options that do not fit together, and for a base that is not there.
    """
    require_planned(run)
    quantized, plan = _quantized(run), _tuned(run)
    made = partial(_made, run, quantized)
    batch = 1 if run.protocol.batch == AUTO else int(run.protocol.batch)
    found: dict[str, Callable[[], Peak]] = {}
    if quantized.names:
        found["calibration"] = lambda: calibrating(
            outline(run.base_folder, run.base_name), quantized, run.calibration.search
        )
    found["encoding"] = lambda: encoding(made(), plan.card)
    found["tuning"] = lambda: tuning(made, plan)
    found["sampling"] = lambda: sampling(made, plan, batch, run.sampler.steps)
    if (model := _clip(run)) is not None:
        found["scoring"] = lambda: scoring(*empty_clip(model), run.protocol.scored, plan.card)
    return found


def advice(run: Run, peak: Peak, room: float) -> tuple[tuple[str, ...], int]:
    """Return options with which a stage needs less, each tried, and its peak with them.

    They are added one after the other until the stage fits, or none is left.

    Args:
        run: whose options are changed.
        peak: of the stage without them.
        room: bytes that it may take.
    """
    taken: tuple[str, ...] = ()
    lowest = peak.peak
    for word in ADVICE.get(peak.stage, ()):
        option, _, value = word.partition("=")
        if lowest <= room:
            break
        if str(OmegaConf.select(run.cfg, option)).lower() == value:
            continue
        changed = OmegaConf.merge(run.cfg, OmegaConf.from_dotlist([*taken, word]))
        with suppress(UserError):  # it contradicts another option
            tried = stages(Run(cast(DictConfig, changed)))[peak.stage]().peak
            if tried < lowest:
                taken, lowest = (*taken, word), tried
    return taken, lowest


def require_planned(run: Run) -> None:
    """Refuse options that do not fit together, as a run does, without its data and its device.

    Raises:
        UserError: for the first.
    """
    require_own_layers(run.settings, "quantbooth-plan")
    for part in ("outline", "plan", "recipe", "timestep_sampler", "protocol", "sampler"):
        getattr(run, part)
    require_offload(run, run.settings["trainer"]["accelerator"] if on_card(run) else "cpu")
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
    if run.processes > 1:
        yield f"the other processes of trainer.devices={run.processes}, each with a part of every batch"
    if run.recipe.accumulate_grad_batches > 1:
        yield "gradients of earlier batches of a step (trainer.accumulate_grad_batches)"
    if run.stopping is not None and run.stopping.prompt_drop is not None:
        yield "the pictures of the prompt guard (tuner.stopping.prompt_drop)"
    if run.plan.undecided is not None:
        yield "the measurement of gradients that decides the borders of zones"
    denoiser = run.outline.denoiser
    moved = {*dict(denoiser.named_parameters()), *dict(denoiser.named_buffers())}
    for name, tensor in denoiser.state_dict().items():
        if name not in moved and not on_card(run):
            yield f"{name}, {tensor.nbytes / 1e9:.2f} GB on the CPU, of which a prediction reads a part"


def _clip(run: Run) -> str | None:
    """Return the model of open_clip that scores; None for another encoder, and for one of a folder."""
    model = run.settings["scorer"]["encoder"].get("model")
    return None if model is None or str(model).startswith(FOLDER) else str(model)


def _made(run: Run, quantized: Quantized) -> Base:
    base = frozen(outline(run.base_folder, run.base_name))
    quantized.apply_(base.denoiser)
    return base


def _quantized(run: Run) -> Quantized:
    if run.calibration.bits is None:
        return Quantized()
    names = matching(run.outline.denoiser, *run.calibration.layers)
    return Quantized(names, run.calibration.bits, run.calibration.splits(run.outline, names))


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
        offloaded=resources["group_offload"],
        cached=resources["cache_latents"],
        identifier=settings["tuner"]["identifier"],
        precision=settings["trainer"]["precision"],
        card=on_card(run),
        fused=on_card(run) and resources["kernels"] != EAGER,
        save_dtype=precision_of(resources["save_dtype"]),
    )
