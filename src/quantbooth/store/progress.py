"""Progress of long work: what each finished part left, so that a run that was stopped goes on where it was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantbooth.runtime.errors import UserError

__all__ = ["Progress"]

Tensors = dict[str, Shaped[Tensor, "..."]]


@dataclass(frozen=True)
class Progress:
    """Parts 0, 1, 2, ... of one piece of work, a file each; a file is there whole or not at all."""

    folder: Path

    def read(self, part: int) -> Tensors | None:
        """What a part left; None where it is not done.

        Raises:
            UserError: when its file is damaged.
        """
        path = self._path(part)
        if not path.is_file():
            return None
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read: {error}; remove it to have this part made again") from error

    def write(self, part: int, tensors: Tensors) -> None:
        """Keep what a part leaves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._path(part).with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        partial.rename(self._path(part))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for the work on one part; what a killed run left in it is removed."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Forget all parts: the work is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.safetensors"
