"""Two processes with half of a batch each (DDP over gloo) train as one process with the full batch."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts, attach_, parameters
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_

PROCESSES, BATCH = 2, 6
INDEX = torch.tensor([1, 0, 3, 2, 2, 1])
"""The sets of the joint batch: set 3 occurs in the first process only, set 2 in the second only."""


def made(selection: SetSelection) -> nn.Module:
    """The same quantized model, a layer in parts among them, with the same three sets in every process."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 5, 1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(5 * 16, 7))
    quantize_(model, MinMaxObserver(Grid(4)), splits={"3": (4, 2)})
    attach_(model.requires_grad_(False), 3, selection, Parts(inputs=True, biases=True, norms=True))
    with torch.no_grad():
        for numbers in model.parameters():
            if numbers.requires_grad:
                numbers.uniform_(0.5, 1.5)
    return model


def gradients(model: nn.Module, selection: SetSelection, called: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Those of the mean over some samples of the joint batch."""
    x = torch.randn(BATCH, 4, 4, 4, generator=torch.Generator().manual_seed(1))[rows]
    selection.choose(INDEX[rows])
    called(x).square().mean().backward()
    return {name: numbers.grad for name, numbers in model.named_parameters() if numbers.grad is not None}


def work(rank: int, folder: Path) -> None:
    """One process: its share of the batch; the first writes the gradients down."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", meeting, timedelta(seconds=120), world_size=PROCESSES, rank=rank)
    share = BATCH // PROCESSES
    for broadcast in (False, True):
        selection = SetSelection()
        model = made(selection)
        parallel = DistributedDataParallel(model, broadcast_buffers=broadcast)
        found = gradients(model, selection, parallel, slice(rank * share, (rank + 1) * share))
        if rank == 0:
            save_file(found, folder / f"{broadcast}.safetensors")
        dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(PROCESSES)]  # type: ignore[call-overload]
    said = [process.communicate(timeout=180)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(said)
    selection = SetSelection()
    model = made(selection)
    expected = gradients(model, selection, model, slice(None))
    assert len(expected) == sum(len(numbers) for numbers in parameters(model).values()) == 3 * 3 + 2
    for broadcast in (False, True):
        found = load_file(tmp_path / f"{broadcast}.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (gradient != 0).any(), name
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[2]), Path(sys.argv[1]))
