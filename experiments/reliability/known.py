"""Mistakes written by hand: each was once in no test's sight, and a test of a fact must see it."""

import ast
from dataclasses import dataclass

__all__ = ["KNOWN", "Known"]


@dataclass(frozen=True)
class Known:
    """One mistake: a text that a file contains exactly once is replaced by another.

    Attributes:
        title: what the mistake does.
        file: below the package.
        where: the function.
        before: the text.
        after: its replacement.
        tests: files with tests that must run besides those that enter the function.
    """

    title: str
    file: str
    where: str
    before: str
    after: str
    tests: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.file} {self.where}: {self.title}"

    def planted(self, source: bytes) -> bytes:
        """Return the file's text with the mistake.

        Raises:
            ValueError: when the text is not there exactly once.
        """
        text = source.decode()
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.file} must have this text once, found it {count} times: {self.before!r}")
        made = text.replace(self.before, self.after)
        ast.parse(made)
        return made.encode()


JOINED = ("tests/tuning/test_unfinished.py",)
LEARNED = ("tests/commands/test_encode.py",)
STATISTICS = ("tests/reporting/test_statistics.py",)

KNOWN = (
    Known(
        "experts trained apart are joined in reverse order",
        "tuning/checkpoints.py",
        "Unfinished.collect",
        "states = [read_snapshot(folder, step) for folder in folders]",
        "states = [read_snapshot(folder, step) for folder in folders[::-1]]",
        JOINED,
    ),
    Known(
        "prompts of subject and class are swapped",
        "run/examples.py",
        "encode",
        "return Examples(kept[0], texts[:1], kept[1], texts[1:], subject.name, several, rows)",
        "return Examples(kept[0], texts[1:], kept[1], texts[:1], subject.name, several, rows)",
        LEARNED,
    ),
    Known(
        "photos replace class pictures under flip",
        "run/examples.py",
        "encode",
        "for pictures in (photos, prior))\n        rows",
        "for pictures in (photos, photos))\n        rows",
        LEARNED,
    ),
    Known(
        "pictures are not mirrored",
        "run/examples.py",
        "encode",
        "torch.cat([pictures, pictures.flip(-1)])",
        "torch.cat([pictures, pictures.flip(-2)])",
        LEARNED,
    ),
    Known(
        "latents are a sample of the posterior",
        "diffusion/model.py",
        "Family.encode_images",
        "posterior.latent_dist.mode()",
        "posterior.latent_dist.sample()",
    ),
    Known(
        "pictures are encoded in [0, 1]",
        "diffusion/model.py",
        "Family.encode_images",
        "autoencoder.encode(images * 2 - 1)",
        "autoencoder.encode(images)",
    ),
    Known(
        "latents are not scaled",
        "diffusion/model.py",
        "Family.encode_images",
        '(latents - (autoencoder.config.get("shift_factor") or 0)) * autoencoder.config.scaling_factor',
        "latents",
    ),
    Known(
        "latents are decoded without their scale",
        "diffusion/model.py",
        "Family.decode_latents",
        "autoencoder.decode(latents / autoencoder.config.scaling_factor + shift)",
        "autoencoder.decode(latents)",
    ),
    Known(
        "gradients of gains are summed in half precision",
        "quant/per_channel.py",
        "summed",
        "wide = torch.promote_types(dy.dtype, torch.float32)",
        "wide = dy.dtype",
    ),
    Known(
        "the bias of a normalization is not multiplied when merged",
        "quant/merging.py",
        "_norm",
        "None if bias is None else bias * gain",
        "bias",
    ),
    Known(
        "a ratio of means is a mean of ratios",
        "reporting/statistics.py",
        "_resampled",
        "a.mean(axis=axis) / b.mean(axis=axis)",
        "(a / b).mean(axis=axis)",
        STATISTICS,
    ),
    Known(
        "the level of a ratio is not expanded",
        "reporting/statistics.py",
        "ratio_of_means",
        "return _resampled((pairs[:, 0], pairs[:, 1]), rng, expanded(confidence, len(pairs)), resamples)",
        "return _resampled((pairs[:, 0], pairs[:, 1]), rng, confidence, resamples)",
        STATISTICS,
    ),
    Known(
        "rounding learns where h is clamped",
        "quant/rounding.py",
        "slope",
        ".mul_(1 / (HIGH - LOW)).masked_fill_(held, 0)",
        ".mul_(1 / (HIGH - LOW))",
    ),
    Known(
        "rounding learns where the code is clamped",
        "quant/rounding.py",
        "_Soft.backward",
        ".mul_(dw).masked_fill_(outside, 0)",
        ".mul_(dw)",
    ),
    Known(
        "the learning rate of activations stays",
        "calibration/lsq.py",
        "Scales.optimizers",
        "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.config.iterations))",
        "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)",
    ),
    Known(
        "crops are not anti-aliased",
        "evaluation/locators.py",
        "crop",
        "antialias=True",
        "antialias=False",
    ),
    Known(
        "every step of tuning draws the same",
        "tuning/module.py",
        "TuningModule.rows",
        "generator_for(self.recipe.seed, number, ",
        "generator_for(self.recipe.seed, 0, ",
    ),
    Known(
        "every step of a block draws the same",
        "calibration/block_training.py",
        "BlockTraining.training_step",
        "generator_for(self.config.seed, self.global_step, ",
        "generator_for(self.config.seed, 0, ",
    ),
)
