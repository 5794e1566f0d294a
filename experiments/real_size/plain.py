"""Draws a protocol's first picture from an exported folder by diffusers alone: `python -m experiments.real_size.plain`.

    python -m experiments.real_size.plain WORK OPTIONS...

finds the folder below WORK/export, draws from the noise that quantbooth began with, and ends with 1 where a pixel
differs by more than 1 / 255 from the picture that `quantbooth-sample` drew.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from diffusers import DDIMScheduler, DiffusionPipeline

from quantbooth.data.pictures import opened
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir
from quantbooth.sampling.image_set import read_requests

LIMIT = 1


def main() -> int:
    """The program; the exit code."""
    work, words = Path(sys.argv[1]), sys.argv[2:]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plan = Run(hydra.compose("quantbooth", words))
    pictures = plan.only.images(plan.recipe.steps).require()
    request = read_requests(pictures)[0]
    (folder,) = (work / "export").iterdir()
    pipeline = loaded(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    noise = initial_noise([request.prompt], [request.seed], (channels, side, side))
    asked = {"num_inference_steps": plan.sampler.steps, "guidance_scale": plan.sampler.guidance}
    image = pipeline(request.text, latents=noise, **asked).images[0]
    with opened(pictures / request.file) as picture:
        drawn = np.asarray(picture, dtype=int)
    difference = int(np.abs(np.asarray(image, dtype=int) - drawn).max())
    print(f"largest difference of a pixel: {difference} / 255, mean {drawn.mean():.1f}, spread {drawn.std():.1f}")  # noqa: T201
    return int(difference > LIMIT)


def loaded(folder: Path) -> Any:
    """The pipeline, by the file that an export of several denoisers brings along."""
    if not (folder / "by_zone.py").exists():
        return DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    spec = importlib.util.spec_from_file_location("exported_by_zone", folder / "by_zone.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / 'by_zone.py'} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(str(folder), local_files_only=True)


if __name__ == "__main__":
    sys.exit(main())
