"""Sampling: a PNG per request, its noise its own, and all parts of the base in the stage that is moved."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Reward, Sampler
from quantbooth.runtime.draws import index_loader
from quantbooth.sampling.image_set import Request, read_images
from quantbooth.sampling.module import SamplingModule, image_jobs

TEXTS = ["a red mug", "a duck on the beach", "a photo of sks duck"]
REQUESTS = [Request(f"{i}-{seed}.png", t, t, t, "plain", seed) for i, t in enumerate(TEXTS) for seed in (0, 3)]
SAMPLER = Sampler("ddim", 3, 4.0)


def predict(base: Base, requests: list[Request], batch: int, folder: Path) -> torch.Tensor:
    stage = SamplingModule(base, SAMPLER, image_jobs(requests, folder))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.predict(stage, index_loader(len(requests), batch), return_predictions=False)
    return read_images([folder / request.file for request in requests])


def test_every_request_becomes_one_picture_of_its_own(small_base: Base, tmp_path: Path) -> None:
    pictures = predict(small_base, REQUESTS, 4, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(request.file for request in REQUESTS)
    assert pictures.shape == (6, 3, 32, 32)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 6


def test_a_picture_does_not_depend_on_its_batch_or_its_place(small_base: Base, tmp_path: Path) -> None:
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
    together = predict(small_base, REQUESTS, 6, tmp_path / "together")
    alone = predict(small_base, REQUESTS[::-1], 1, tmp_path / "alone").flip(0)
    torch.testing.assert_close(together, alone, rtol=0, atol=1.01 / 255)


def test_noise_comes_from_the_template_so_every_method_and_subject_starts_alike(small_base: Base) -> None:
    """The text differs (another identifier), the template does not: the noise is the same."""
    seen: list[torch.Tensor] = []

    class Noting(Sampler):
        def sample(
            self,
            base: Base,
            texts: Sequence[str],
            noise: torch.Tensor,
            negative_prompt: str = "",
            reward: Reward | None = None,
        ) -> torch.Tensor:
            seen.append(noise)
            return noise[:, :3]

    ones = [Request("a.png", "a sks dog at sea", "", "a {} at sea", "own", 0)]
    others = [replace(ones[0], text="a zwx cat at sea"), replace(ones[0], seed=1), replace(ones[0], prompt="a {}")]
    stage = SamplingModule(small_base, Noting("ddim", 1, 1.0), image_jobs(ones, Path()))
    for drawing in image_jobs([ones[0], *others], Path()):
        stage.render([drawing])
    assert [torch.equal(seen[0], noise) for noise in seen[1:]] == [True, False, False]


def test_all_parts_of_the_base_move_with_the_stage(small_base: Base) -> None:
    stage = SamplingModule(small_base, SAMPLER, image_jobs(REQUESTS, Path()))
    held = {id(parameter) for parameter in stage.parameters()}
    for part in (small_base.denoiser, small_base.autoencoder, small_base.text_encoder):
        assert {id(parameter) for parameter in part.parameters()} <= held
