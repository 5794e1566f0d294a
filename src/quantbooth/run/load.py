"""The loader of tuned bases, from artifacts alone: their manifests have the strategy and the tuner.

    pipeline = quantbooth.load_pipeline("toy", "outputs/store/scale_sets/toy_mug-s2-w4-seed0-924f22e5976d")
    pipeline("a photo of a sks mug").images[0].save("mug.png")

The codes stay packed, and every timestep uses its scale set. `initial_noise` returns the initial noise of
`quantbooth-sample`, to be passed as `latents`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantbooth.calibration.quantized_base import read_quantized_denoiser
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import as_pipeline, empty_denoiser, load_base, read_denoiser
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.diffusion.sources import source_folder
from quantbooth.quant.selection import SetSelection
from quantbooth.run.strength import Strength
from quantbooth.runtime.config import build, choices, composed, conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import checked
from quantbooth.store.files import folder_fingerprint
from quantbooth.store.manifest import Manifest, open_artifact
from quantbooth.tuning.files import last_step, open_tuned, read_snapshot, strategy_of
from quantbooth.tuning.stacked import StackedTuner
from quantbooth.tuning.tuner import State, Tuner
from quantbooth.tuning.tuners import FullTuner, IdentifierTuner, LoraTuner, ScaleTuner

__all__ = ["initial_noise", "load", "load_pipeline"]

WHOLE = Strength()
TUNERS: dict[str, type[Tuner]] = {kind.name: kind for kind in (ScaleTuner, FullTuner, LoraTuner, StackedTuner)}


def load_pipeline(
    base: str | Path,
    tuned: str | Path | None = None,
    quantized_base: str | Path | None = None,
    step: int | None = None,
) -> Any:
    """Return a diffusers pipeline that generates the pictures of `quantbooth-sample` from the same noise.

    Args:
        base: the diffusers folder that was quantized, or the name of a shipped base, such as "toy".
        tuned: a folder made by `quantbooth-tune`; None gives the base.
        quantized_base: a folder made by `quantbooth-calibrate`; by default the one in the same store that `tuned` was
            tuned on.
        step: of the run; by default the last that was saved.

    Raises:
        UserError: when something is missing, is of another kind, or does not match.
    """
    folders = [] if tuned is None else [Path(tuned)]
    quantized = None if quantized_base is None else Path(quantized_base)
    return as_pipeline(load(_base_folder(str(base)), str(base), folders, quantized, step)[0])


def load(
    folder: Path,
    name: str,
    tuned: Sequence[Path] = (),
    quantized: Path | None = None,
    step: int | None = None,
    strength: Strength = WHOLE,
    prompts: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Base, SubjectsRoute | None]:
    """Return a base with tuned parameters loaded and the router attached.

    Args:
        folder: the base's diffusers folder.
        name: the base's label in tables and figures.
        tuned: folders made by `quantbooth-tune`, one per subject; their sets are stacked in one base.
        quantized: a folder made by `quantbooth-calibrate`; by default the one in the same store that the first of
            `tuned` was tuned on.
        step: of the run; by default the last that was saved.
        strength: how much of what was tuned is used.
        prompts: all that will be encoded: the text encoders read them and are freed before the denoiser is read. With
            None, or where part of an encoder was tuned, the base has its text encoders.
        device: where prompts are encoded.

    Returns:
        The base, and the route, which assigns rows to subjects where there are several; None without `tuned`.

    Raises:
        UserError: when something is missing, is of another kind, or does not match.
    """
    manifests = [open_tuned(each) for each in tuned]
    quantized = quantized or (_quantized(tuned[0], manifests[0]) if manifests else None)
    of_quantized = None if quantized is None else open_artifact(quantized, "quantized_base")
    _require_same(manifests, of_quantized)
    _require_base(folder, [*filter(None, [of_quantized]), *manifests])
    own_words = any("identifier" in (manifest.contents.get("tuner") or {}) for manifest in manifests)
    if prompts is None or own_words:
        base = load_base(folder, name, _denoiser(folder, quantized))
    else:
        base = with_denoiser_of(encoding_base(folder, name, prompts, device), folder, quantized)
    return base, _load_sets_(base, tuned, manifests[0], step, strength) if manifests else None


def encoding_base(folder: Path, name: str, prompts: Sequence[str] | None, device: torch.device | str) -> Base:
    """Return a base that encodes prompts and pictures on a device, and has no weights of its denoiser yet.

    Args:
        folder: the base's diffusers folder.
        name: the base's label in tables and figures.
        prompts: all that will be encoded, so that the text encoders are freed; None keeps them.
        device: where the autoencoder is, and text encoders while they are there.

    Raises:
        UserError: when a part is missing or damaged.
    """
    base = load_base(folder, name, empty_denoiser(folder))
    nn.ModuleList([base.autoencoder, *base.text_encoders]).to(device)
    return base if prompts is None else base.without_text_encoders(prompts)


def with_denoiser_of(base: Base, folder: Path, quantized: Path | None) -> Base:
    """Return a base with the denoiser of its folder, or of a quantized base's, frozen.

    Raises:
        UserError: when it is missing or damaged.
    """
    return base.with_denoiser(_denoiser(folder, quantized).requires_grad_(False).eval())


def _denoiser(folder: Path, quantized: Path | None) -> Any:
    return read_denoiser(folder) if quantized is None else read_quantized_denoiser(quantized, folder)


def _require_same(manifests: Sequence[Manifest], quantized: Manifest | None) -> None:
    """Refuse artifacts that were tuned on another quantized base, or by different methods."""
    for manifest in manifests:
        if quantized is not None:
            manifest.require_parent("quantized_base", quantized.fingerprint)
        if _method(manifest) != _method(manifests[0]):
            raise UserError(
                f"{manifest.name} and {manifests[0].name} were tuned by different methods; load them one by one"
            )


def _method(manifest: Manifest) -> dict[str, Any]:
    """Return what says how an artifact is used; what its timesteps were drawn by does not."""
    return {key: value for key, value in manifest.contents.items() if key != "timesteps"}


def _require_base(folder: Path, manifests: Sequence[Manifest]) -> None:
    """Refuse artifacts that were made of another base, which may have the same shapes."""
    for manifest in manifests:
        made_of = manifest.contents.get("base")
        if made_of is not None and made_of != folder_fingerprint(folder):
            raise UserError(
                f"{manifest.kind} {manifest.name} was made of another base than that in {folder}; choose that one, "
                "or make it again for this"
            )


def _load_sets_(
    base: Base, folders: Sequence[Path], manifest: Manifest, step: int | None, strength: Strength
) -> SubjectsRoute:
    tuner, strategy, selection = _tuner(manifest), strategy_of(manifest), SetSelection()
    if strategy.training_zones.timesteps != base.timesteps:
        raise UserError(
            f"{manifest.name} was tuned on {strategy.training_zones.timesteps} timesteps, "
            f"{base.name} has {base.timesteps}"
        )
    states = [read_snapshot(each, last_step(each) if step is None else step) for each in folders]
    shares, unconditional = strength.of(strategy, tuner)
    if strength.name:
        states = _scaled(base, tuner, states, shares, unconditional)
    state = states[0] if len(states) == 1 else tuner.join(states)
    tuner.load_(base, state, strategy.sets * len(states), selection)
    route = SubjectsRoute(
        strength.route(strategy), strategy.sets, len(folders), unconditional=len(states) > len(folders)
    )
    route_(base, route, selection)
    return route


def _scaled(
    base: Base, tuner: Tuner, states: Sequence[State], shares: Tensor, unconditional: Tensor | None
) -> list[State]:
    """Return the states by their strength, those of unconditional predictions after the others."""
    return [tuner.scaled(base, state, each) for each in (shares, unconditional) if each is not None for state in states]


def _tuner(manifest: Manifest) -> Tuner:
    """Return the tuner that an artifact was made with.

    Raises:
        UserError: when its manifest names no known tuner.
    """
    where = f"{manifest.name}: contents.tuner"
    options = checked(dict[str, Any], manifest.contents.get("tuner") or {}, where)
    name, identifier = options.pop("name", None), options.pop("identifier", None)
    if not isinstance(name, str) or name not in TUNERS:
        raise UserError(f"{manifest.name} must say which tuner made it, one of {', '.join(TUNERS)}, found {name!r}")
    try:
        tuner = TUNERS[name](**options)
        return tuner if identifier is None else IdentifierTuner(tuner, **identifier)
    except TypeError as error:
        raise UserError(f"{where} must have the options of {name}: {error}; tune again") from error


def _quantized(tuned: Path, manifest: Manifest) -> Path | None:
    """Return the quantized base, in the same store, of a tuned artifact; None where the base was float."""
    fingerprint = manifest.parents.get("quantized_base")
    if fingerprint is None:
        return None
    place = tuned.resolve().parent.parent / "quantized_base"
    for folder in place.glob(f"*-{fingerprint[:12]}"):
        return folder
    raise UserError(
        f"{tuned} was tuned on the quantized base {fingerprint[:12]}, which is not in {place}; name its folder"
    )


def _base_folder(base: str) -> Path:
    """Return the folder of a shipped base by its name, else the given folder or the model from the hub."""
    if base in choices(conf_dir() / "base") and "path" not in (cfg := composed("base", base).base):
        return build(cfg.folder, Path)
    return source_folder(base)
