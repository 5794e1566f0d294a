"""The weights of a network in its safetensors files, read one layer at a time: what was read is all that is in memory.

A float denoiser is quantized so without ever being in memory whole, in whatever precision its files have.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open
from torch import nn

from quantbooth.diffusion.diffusers_folder import read_json
from quantbooth.diffusion.weights import FLOATS, require_finite
from quantbooth.store.files import require_name

__all__ = ["StreamedWeights", "streamed_weights", "weight_files"]

INDEX = "diffusion_pytorch_model.safetensors.index.json"
FILE = "diffusion_pytorch_model.safetensors"


class StreamedWeights:
    """Reads the weights of a network's layers from files, in the precision that the network has.

    Args:
        folder: of the network, for messages.
        files: of each weight, by its name in the network.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        self.folder, self.files = folder, files
        self._left = {*files}

    def fill_(self, network: nn.Module, layer: str = "") -> None:
        """Read the weights of a layer that were not read yet, by default of the whole network.

        Raises:
            UserError: when one is not finite.
        """
        begin = f"{layer}." if layer else ""
        state = network.get_submodule(layer).state_dict(prefix=begin, keep_vars=True)
        wanted = [name for name in state if name in self._left]
        self._left -= {*wanted}
        with ExitStack() as stack:
            opened = {
                file: stack.enter_context(safe_open(file, framework="pt")) for file in map(self.files.get, wanted)
            }
            for name in wanted:
                read = opened[self.files[name]].get_tensor(name)
                require_finite({name: read}, str(self.folder))
                parent, _, own = name.rpartition(".")
                owner = network.get_submodule(parent)
                given = {**owner.state_dict(keep_vars=True), own: read.to(state[name].dtype)}
                owner.load_state_dict(given, assign=True)


def streamed_weights(network: nn.Module, folder: Path) -> StreamedWeights | None:
    """Return what reads the weights of a network; None where its files need more than reading.

    That is so of names or shapes that diffusers converts, and of faults, which reading the whole network names.

    Args:
        network: on the meta device.
        folder: as `save_pretrained` writes it, in safetensors.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found, files = dict[str, tuple[int, ...]](), dict[str, Path]()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # a safetensors handle is not a mapping
                tensor = opened.get_slice(name)
                found[name], files[name] = tuple(tensor.get_shape()), file
                if tensor.get_dtype() not in FLOATS and not name.endswith("num_batches_tracked"):
                    return None
    return StreamedWeights(folder, files) if found == expected else None


def weight_files(folder: Path) -> list[Path]:
    """Return the files that diffusers reads, none where they are not there."""
    if (folder / INDEX).is_file():
        names = sorted(set(map(str, read_json(folder / INDEX).get("weight_map", {}).values())))
        for name in names:
            require_name(name, str(folder / INDEX))
    else:
        names = [FILE]
    return [folder / name for name in names if (folder / name).is_file()]
