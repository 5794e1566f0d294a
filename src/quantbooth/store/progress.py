"""Progress of long work: the tensors of each finished part, so that an interrupted run resumes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_tensors

__all__ = ["Progress"]

Tensors = dict[str, Shaped[Tensor, "..."]]


@dataclass(frozen=True)
class Progress:
    """Parts 0, 1, 2, ... of one piece of work, a file each, written atomically."""

    folder: Path

    def read(self, part: int) -> Tensors | None:
        """Return the tensors of a part; None where it is not finished.

        Raises:
            UserError: when its file is damaged.
        """
        path = self._path(part)
        if not path.is_file():
            return None
        try:
            return read_tensors(path)
        except UserError as error:
            raise UserError(f"{error}: remove it to have this part made again") from error

    def write(self, part: int, tensors: Tensors) -> None:
        """Write the tensors of a finished part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._path(part).with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        partial.rename(self._path(part))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder for the work on one part; files that a killed run left there are removed."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove all parts, when the work is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.safetensors"
