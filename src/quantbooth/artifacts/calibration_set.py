"""The calibration set on disk: (x_t, t, text) a unet is run on to see what its quantization does.

    states-00000.safetensors, ...    x [prompts of the shard, timesteps, c, h, w], in the order of the prompts
    texts.safetensors                texts [1 + prompts, length, d], the first of them empty
    set.json                         prompts, timesteps, prompts of a shard

Each prompt at each timestep is two items, with its own text and with the empty one, as guidance runs a unet twice.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.errors import UserError

__all__ = ["CalibrationSet", "Items", "write_states", "write_texts"]

ABOUT = "set.json"
TEXTS = "texts.safetensors"


@dataclass(frozen=True)
class Items:
    """A batch: x_t, its timestep, and the text that conditions it."""

    x: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    text: Float[Tensor, "b length d"]


class CalibrationSet:
    """Items by place; states stay on disk until they are asked for.

    Item (p k + i) 2 + e is prompt p at kept timestep i of k, with its own text (e = 0) or the empty one (e = 1).

    Raises:
        UserError: when a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _in_one_line(folder):
            about = json.loads((folder / ABOUT).read_text())
            self.prompts: list[str] = about["prompts"]
            self.timesteps: list[float] = about["timesteps"]
            self._shard: int = about["shard"]
            self._texts = load_file(folder / TEXTS)["texts"]

    def __len__(self) -> int:
        return 2 * len(self.prompts) * len(self.timesteps)

    def batch(self, places: Sequence[int]) -> Items:
        """The items at these places."""
        states, empty = [place // 2 for place in places], [place % 2 for place in places]
        prompts, times = zip(*(divmod(state, len(self.timesteps)) for state in states), strict=True)
        with _in_one_line(self.folder):
            x = torch.stack([self._state(prompt, time) for prompt, time in zip(prompts, times, strict=True)])
        text = self._texts[[0 if alone else 1 + prompt for prompt, alone in zip(prompts, empty, strict=True)]]
        return Items(x, torch.tensor([self.timesteps[time] for time in times]), text)

    def _state(self, prompt: int, time: int) -> Tensor:
        shard, place = divmod(prompt, self._shard)
        row: Tensor = self._shards[shard].get_slice("x")[place : place + 1]
        return row[0, time]

    @cached_property
    def _shards(self) -> list[Any]:
        return [safe_open(path, "pt") for path in sorted(self.folder.glob("states-*.safetensors"))]


def write_states(folder: Path, shard: int, states: Float[Tensor, "b k c h w"]) -> None:
    """Write the states of one shard's prompts."""
    save_file({"x": states.contiguous()}, folder / f"states-{shard:05d}.safetensors")


def write_texts(
    folder: Path,
    prompts: Sequence[str],
    texts: Float[Tensor, "n length d"],
    timesteps: Sequence[float],
    shard: int,
) -> None:
    """Write what the states belong to; `shard` prompts are in each shard but the last."""
    save_file({"texts": texts.contiguous()}, folder / TEXTS)
    about = {"prompts": list(prompts), "timesteps": list(timesteps), "shard": shard}
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False))


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """What reading a damaged file raises, as one sentence."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"the calibration set in {folder} cannot be read: {error}; remove that folder and calibrate again"
        ) from error
