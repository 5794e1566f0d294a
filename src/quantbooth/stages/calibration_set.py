"""Making a calibration set under Lightning's predict loop: a batch of prompts at a step, written before the next."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule

from quantbooth.artifacts.calibration_set import sentences, write_states, write_texts
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.calibration_sources import Asked, Source
from quantbooth.diffusion.conditioning import Conditioning

__all__ = ["CalibrationSetStage"]


class CalibrationSetStage(LightningModule):
    """Writes the states of each batch of sentences, `count` timesteps of each."""

    def __init__(self, base: Base, source: Source, asked: Sequence[Asked], count: int, folder: Path) -> None:
        super().__init__()
        self.base, self.source, self.asked, self.count, self.folder = base, source, tuple(asked), count, folder
        self.parts = base.networks  # so that all move together

    def predict_step(self, shards: list[int]) -> int:
        for shard in shards:
            write_states(self.folder, shard, self.source.states(self.base, self.asked[shard], self.count))
        return len(shards)

    def on_predict_end(self) -> None:
        prompts = [text for asked in self.asked for text in asked.texts]
        encoded, size = sentences(prompts), len(self.asked[0].texts)
        pieces = [self.base.encode_prompts(encoded[start : start + size]) for start in range(0, len(encoded), size)]
        times = self.source.timesteps(self.base, self.count).tolist()
        texts = Conditioning.cat(pieces).to("cpu")
        write_texts(self.folder, prompts, texts, times, shard=size)
