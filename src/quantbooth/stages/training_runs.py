"""Long trainings under Lightning: averaged weights, a checkpoint every few minutes, and on from there after a kill."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar

__all__ = ["fit_resumably"]

LAST = "last.ckpt"


def fit_resumably(
    stage: LightningModule, steps: int, folder: Path, average_from: int, callbacks: Sequence[Callback] = ()
) -> None:
    """Train to the given step, from the newest checkpoint in the folder where there is one; end on averaged weights.

    Draws that depend on (seed, step) only make the resumed run the same run.
    """
    checkpoint = ModelCheckpoint(folder, save_last=True, save_top_k=1, train_time_interval=timedelta(minutes=2))
    average = EMAWeightAveraging(decay=0.998, update_starting_at_step=average_from)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        logger=False,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        callbacks=[checkpoint, average, TQDMProgressBar(10), *callbacks],
    )
    last = folder / LAST
    trainer.fit(stage, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    trainer.save_checkpoint(last)
