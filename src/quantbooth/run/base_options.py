"""What a base and options decide together: its folder, and the sampler that it can be drawn by."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import check_base, check_sampler
from quantbooth.diffusion.sampler import Sampler
from quantbooth.diffusion.sources import config_folder
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError

__all__ = ["base_folder_of", "sampler_of"]

WRITTEN = (
    *("paths.store", "paths.outputs", "paths.logs", "pictures", "export.folder", "report.folder"),
    *("probe.folder", "probe.document", "degradation.folder", "degradation.document"),
)
"""Options of places that commands write to."""


def base_folder_of(cfg: DictConfig) -> Path:
    """Return the base's folder, whose configuration files agree with the options of the base.

    Raises:
        UserError: when they do not, before a model of the hub is fetched or a single file is converted; or when outputs
            would be written into the folder.
    """
    base = cfg.base
    said = base.resolution, base.timesteps, bool(cfg.quant.get("stored"))
    if "path" in base.folder:
        given = {key: base.folder.get(key) for key in ("path", "revision", "config")}
        check_base(config_folder(**given), *said)
    folder = build(base.folder, Path)
    check_base(folder, *said)
    places = {option: OmegaConf.select(cfg, option) for option in WRITTEN}
    if HydraConfig.initialized():
        places["the folder of hydra.run.dir or hydra.sweep.dir"] = HydraConfig.get().runtime.output_dir
    for option, place in places.items():
        if place is not None and Path(place).expanduser().resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{option}={place} is inside the base {folder}, whose files decide its identity; move it out"
            )
    return folder


def sampler_of(cfg: DictConfig, base_folder: Path) -> Sampler:
    """Return the sampler.

    Raises:
        UserError: when steps, scheduler, guidance or its unconditional prediction are not as the base has them.
    """
    sampler, most, family = build(cfg.sampler, Sampler), cfg.base.timesteps, family_in(base_folder)
    if sampler.guidance != 1 and not family.guided:
        raise UserError(
            f"sampler.guidance must be 1 for this base, into which guidance was distilled, got {sampler.guidance:g}; "
            "its own weight of guidance is the default of diffusers' pipeline"
        )
    if (text := cfg["negative_prompt"]) and not family.negative_prompts:
        raise UserError(f"negative_prompt has no instruction in this base's pipeline; leave it out, got {text!r}")
    for option in ("negative_prompt", "unconditional_strength"):
        if sampler.guidance == 1 and cfg[option] not in (None, ""):
            which = "leave out one of them" if family.guided else f"leave out {option}"
            raise UserError(f"{option} has no effect at sampler.guidance=1, which is no guidance; {which}")
    if sampler.steps > most:
        raise UserError(f"sampler.steps must be at most base.timesteps = {most}, got {sampler.steps}")
    check_sampler(base_folder, sampler.scheduler, sampler.steps)
    return sampler
