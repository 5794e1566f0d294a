"""Loading a quantized denoiser of Stable Diffusion 1.5's size takes the memory of its file, in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from quantbooth.calibration.quantized_base import WEIGHTS, read_quantized_denoiser, write_quantized_denoiser
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.diffusion.pretrained import empty_denoiser
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.surgery import KINDS, Replaced, empty_like_
from quantbooth_toyworld.models import new_denoiser

SD15 = {"sample_size": 64, "cross_attention_dim": 768}
"""The rest of Stable Diffusion 1.5's denoiser is the library's default."""
STATUS = Path("/proc/self/status")


def write(base: Path, folder: Path, split: bool) -> None:
    """A W4 denoiser of random codes, and of its base the architecture; no float model is made."""
    with torch.device("meta"):
        new_denoiser(SD15).save_config(base / "unet")
    (base / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    denoiser = empty_denoiser(base)
    splits = concatenations(denoiser) if split else {}
    layers = {name: layer for name, layer in denoiser.named_modules() if type(layer) in KINDS}
    replaced = [
        Replaced(name, type(layer).__name__, tuple(layer.weight.shape), 4, 0, 0, splits.get(name, ()))
        for name, layer in layers.items()
        if name not in ("conv_in", "conv_out")
    ]
    empty_like_(denoiser, replaced)
    denoiser.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in denoiser.state_dict().values():
            codes = tensor.dtype == torch.uint8  # scales must be above 0
            tensor.random_(0 if codes else 1, 256 if codes else 3, generator=generator)
    write_quantized_denoiser(folder, denoiser, replaced)


def resident(kind: str) -> int:
    """Bytes of this process that are (VmRSS) or at most were (VmHWM) in memory, pages of mapped files among them."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def measure(base: Path, folder: Path) -> dict[str, int]:
    """What loading takes, and what reading every byte of what was loaded takes, on top of the process before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = resident("VmRSS")
    denoiser: Any = read_quantized_denoiser(folder, base)
    loading = resident("VmHWM") - before
    total = sum(int(tensor.count_nonzero()) for tensor in denoiser.state_dict().values())
    layers = sum(1 for _ in quantized_layers(denoiser))
    used = resident("VmHWM") - before
    return {"loading": loading, "used": used, "before": before, "layers": layers, "total": total}


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("split", [False, True])
def test_loading_takes_at_most_1_3_times_the_file(tmp_path: Path, split: bool) -> None:
    base, folder = tmp_path / "base", tmp_path / "quantized"
    folder.mkdir()
    write(base, folder, split)
    file = (folder / WEIGHTS).stat().st_size
    command = [sys.executable, __file__, str(base), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (folder / WEIGHTS).unlink()
    found = json.loads(run.stdout)
    print(
        f"file {file / 2**20:.0f} MiB, " + ", ".join(f"{key} {value / 2**20:.0f} MiB" for key, value in found.items())
    )
    assert file <= 0.47e9
    assert found["layers"] == 280
    assert found["total"] > 1e8
    assert found["loading"] <= 1.3 * file
    assert found["used"] <= 1.3 * file


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
