"""The calibration set on disk: (x_t, t, conditioning), the inputs on which a denoiser is calibrated.

    states-00000.safetensors, ...    x [prompts of the shard, timesteps, c, h, w], in the order of the prompts
    texts.safetensors                tokens [n, length, d] and the family's other conditioning, for the empty prompt and
                                     each prompt once (`sentences`)
    set.json                         prompts, timesteps, prompts per shard

Each prompt at each timestep is two items, with its own text and with the empty one, as in classifier-free guidance.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.calibration.sources import PromptBatch, Source
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop
from quantbooth.store.documents import open_tensors, read_as, read_tensors

__all__ = ["CalibrationSet", "Items", "generate_calibration_set", "sentences", "write_states", "write_texts"]

ABOUT = "set.json"
TEXTS = "texts.safetensors"


@dataclass(frozen=True)
class Items:
    """A batch: x_t, timestep and conditioning."""

    x: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    conditioning: Conditioning


@dataclass(frozen=True)
class About:
    """What is in set.json: all shards but the last have `shard` prompts."""

    prompts: list[str]
    timesteps: list[float]
    shard: int


class CalibrationSet:
    """Items by index; states stay on disk, memory-mapped, until they are read.

    Item (p k + i) 2 + e is prompt p at timestep i of k, with its own text (e = 0) or the empty one (e = 1).

    Raises:
        UserError: when a file is missing, damaged or of another set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _as_user_error(folder):
            about = read_as(About, folder / ABOUT)
            _require(about.shard > 0, f"{ABOUT}: shard must be 1 or more, found {about.shard}")
            self.prompts, self.timesteps, self._shard = about.prompts, about.timesteps, about.shard
            self._texts = Conditioning.from_tensors(read_tensors(folder / TEXTS))
            rows = {text: row for row, text in enumerate(sentences(self.prompts))}
            _require(len(self._texts) == len(rows), f"{TEXTS} must have {len(rows)} texts, found {len(self._texts)}")
            self._rows = [rows[prompt] for prompt in self.prompts]
            self._shards = [self._opened(first) for first in range(0, len(self.prompts), self._shard)]

    def __len__(self) -> int:
        return 2 * len(self.prompts) * len(self.timesteps)

    def batch(self, indices: Sequence[int]) -> Items:
        """Return the items at these indices.

        Raises:
            IndexError: for an index outside [0, len).
        """
        if wrong := [index for index in indices if not 0 <= index < len(self)]:
            raise IndexError(f"indices must be in [0, {len(self)}), got {wrong[0]}")
        found = [(*divmod(index // 2, len(self.timesteps)), index % 2) for index in indices]
        x = torch.stack([self._state(prompt, time) for prompt, time, _ in found])
        conditioning = self._texts[[0 if empty else self._rows[prompt] for prompt, _, empty in found]]
        return Items(x, torch.tensor([self.timesteps[time] for _, time, _ in found]), conditioning)

    def _state(self, prompt: int, time: int) -> Tensor:
        shard, index = divmod(prompt, self._shard)
        row: Tensor = self._shards[shard].get_slice("x")[index : index + 1]
        return row[0, time]

    def _opened(self, first: int) -> Any:
        """Open the shard that begins with prompt `first`; only its header is read."""
        path = self.folder / _shard_name(first // self._shard)
        opened = open_tensors(path)
        expected = [min(self._shard, len(self.prompts) - first), len(self.timesteps)]
        found = opened.get_slice("x").get_shape()[:2]
        _require(found == expected, f"{path.name} must have {expected} prompts and timesteps, found {found}")
        return opened


def sentences(prompts: Sequence[str]) -> list[str]:
    """Return the prompts to encode: the empty one, then each prompt once, in order of first appearance."""
    return list(dict.fromkeys(["", *prompts]))


def write_states(folder: Path, shard: int, states: Float[Tensor, "b k c h w"]) -> None:
    """Write the states of one shard."""
    save_file({"x": states.contiguous()}, folder / _shard_name(shard))


def write_texts(
    folder: Path,
    prompts: Sequence[str],
    texts: Conditioning,
    timesteps: Sequence[float],
    shard: int,
) -> None:
    """Write the encodings of `sentences(prompts)` and set.json; all shards but the last have `shard` prompts."""
    save_file({name: tensor.contiguous() for name, tensor in texts.tensors.items()}, folder / TEXTS)
    about = {"prompts": list(prompts), "timesteps": list(timesteps), "shard": shard}
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False))


def _shard_name(shard: int) -> str:
    return f"states-{shard:05d}.safetensors"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


@contextmanager
def _as_user_error(folder: Path) -> Iterator[None]:
    """Turn errors of reading a damaged file into one UserError."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"the calibration set in {folder} cannot be read: {error}; remove that folder and calibrate again"
        ) from error


def generate_calibration_set(
    base: Base, source: Source, batches: Sequence[PromptBatch], count: int, folder: Path, loop: Loop, what: str
) -> None:
    """Generate a calibration set, and write the states of each batch of prompts before the next one starts.

    Args:
        base: the base to calibrate.
        source: of x_t.
        batches: batches of prompts.
        count: timesteps per prompt.
        folder: an existing folder.
        loop: runs the batches.
        what: text of the progress bar.
    """

    def write(shard: int) -> None:
        write_states(folder, shard, source.states(base, batches[shard], count))

    loop.place(base.networks)
    loop.map(write, range(len(batches)), what)
    prompts = [text for each in batches for text in each.texts]
    encoded, size = sentences(prompts), len(batches[0].texts)
    with torch.no_grad():  # always in float32
        pieces = [base.encode_prompts(encoded[start : start + size]) for start in range(0, len(encoded), size)]
    times = source.timesteps(base, count).tolist()
    write_texts(folder, prompts, Conditioning.cat(pieces).to("cpu"), times, shard=size)
