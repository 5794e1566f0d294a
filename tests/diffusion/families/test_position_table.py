"""Stable Diffusion 3's table of position embeddings: whole in files, on a device a crop."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from composing import composed
from experiments.random_base import write_configs
from quantbooth.calibration.quantized_base import WEIGHTS, read_quantized_denoiser, write_quantized_denoiser
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.pretrained import denoiser_by_layers, load_base, save_base
from quantbooth.diffusion.streamed import FILE
from quantbooth.planning.live_bytes import emptied_
from quantbooth.planning.stages import counted
from quantbooth.quant.merging import merged_state
from quantbooth.quant.surgery import quantize_
from quantbooth.run.planned import uncounted
from quantbooth.run.run import Run

NAME = "tiny-sd3"
TABLE, T = "pos_embed.pos_embed", torch.tensor([3, 900])


@pytest.fixture
def base(folder: Path) -> Base:
    return load_base(folder, "base")


@pytest.fixture
def plain(folder: Path) -> Any:
    """The transformer as diffusers reads it."""
    return SD3Transformer2DModel.from_pretrained(str(folder), subfolder="transformer")


def words(device: str = "cpu") -> Conditioning:
    draw = torch.Generator().manual_seed(1)
    made = Conditioning(torch.randn(2, 7, 56, generator=draw), {"pooled": torch.randn(2, 32, generator=draw)})
    return made.to(torch.device(device))


def noise(height: int, width: int) -> Tensor:
    return torch.randn(2, 16, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def predicted(plain: Any, x_t: Tensor) -> Tensor:
    found: Tensor = plain(x_t, words().tokens, words().extra["pooled"], T + 1).sample
    return found


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return [*found] == [*wanted] and all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_state_dict_has_the_whole_table_in_its_place_and_precision(
    base: Base, plain: Any, dtype: torch.dtype
) -> None:
    assert same(base.denoiser.to(dtype).state_dict(), plain.to(dtype).state_dict())
    assert TABLE in plain.state_dict()
    assert TABLE not in {**dict(base.denoiser.named_buffers()), **dict(base.denoiser.named_parameters())}


def test_any_size_is_cropped_as_by_diffusers_one_after_the_other(base: Base, plain: Any) -> None:
    with torch.no_grad():
        for size in ((8, 8), (16, 16), (4, 12), (8, 8)):
            assert torch.equal(base.predict(noise(*size), T, words()), predicted(plain, noise(*size)))
        with pytest.raises(ValueError, match="cannot be greater than `pos_embed_max_size`"):
            base.predict(noise(18, 8), T, words())


@pytest.mark.parametrize("assign", [False, True])
def test_another_table_is_loaded_and_added(base: Base, plain: Any, assign: bool) -> None:
    base.predict(noise(8, 8), T, words())
    other = {name: 2 * tensor if name == TABLE else tensor for name, tensor in plain.state_dict().items()}
    base.denoiser.load_state_dict(other, assign=assign)
    plain.load_state_dict(other)
    assert same(base.denoiser.state_dict(), other)
    assert torch.equal(base.predict(noise(8, 8), T, words()), predicted(plain, noise(8, 8)))
    for fault, says in (({TABLE: other[TABLE][:, 1:]}, "size mismatch for pos_embed.pos_embed"), ({}, "Missing key")):
        rest = {name: tensor for name, tensor in other.items() if name != TABLE}
        with pytest.raises(RuntimeError, match=f"{says}.*"):
            base.denoiser.load_state_dict({**rest, **fault}, assign=assign)
    assert same(base.denoiser.state_dict(), other)


def test_a_crop_of_inference_mode_is_added_in_training_too(base: Base) -> None:
    with torch.inference_mode():
        wanted = base.predict(noise(8, 8), T, words())
    base.denoiser.requires_grad_(True)
    found = deepcopy(base.denoiser)(noise(8, 8), words().tokens, words().extra["pooled"], T + 1).sample
    assert torch.equal(found, wanted)
    base.predict(noise(8, 8), T, words()).square().sum().backward()
    assert base.denoiser.pos_embed.proj.weight.grad.abs().max() > 0


def test_saved_quantized_and_merged_weights_have_the_whole_table(
    folder: Path, base: Base, plain: Any, tmp_path: Path
) -> None:
    wanted = plain.state_dict()[TABLE]
    base.predict(noise(8, 8), T, words())
    save_base(base, tmp_path / "half", torch.float16)
    assert torch.equal(load_file(tmp_path / "half" / "transformer" / FILE)[TABLE], wanted.half())
    again = SD3Transformer2DModel.from_pretrained(str(tmp_path / "half"), subfolder="transformer")
    assert same(again.state_dict(), {name: tensor.half() for name, tensor in plain.state_dict().items()})
    by_layers, read = denoiser_by_layers(folder, "by layers")
    read("")
    (tmp_path / "w4").mkdir()
    for one in (base, by_layers):
        replaced = quantize_(one.denoiser, 4, exclude=one.float_layers)
        write_quantized_denoiser(tmp_path / "w4", one.denoiser, replaced)
        assert torch.equal(load_file(tmp_path / "w4" / WEIGHTS)[TABLE], wanted)
        quantized = one.with_denoiser(read_quantized_denoiser(tmp_path / "w4", folder))
        assert torch.equal(quantized.predict(noise(4, 4), T, words()), one.predict(noise(4, 4), T, words()))
        assert torch.equal(merged_state(quantized.denoiser, 0)[TABLE], wanted)


@pytest.fixture(params=["tiny-sd3", "tiny-sd3-without-t5"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Counts the bytes of a prediction by the width of the table."""
    write_configs(request.param, tmp_path)
    config = tmp_path / "transformer" / "config.json"
    said = json.loads(config.read_text())

    def count(places: int) -> tuple[int, int]:
        config.write_text(json.dumps({**said, "pos_embed_max_size": places}))
        base = outline(tmp_path, "planned")
        with counted() as counter, torch.no_grad():
            emptied_(base.denoiser, torch.device("cpu"))
            tokens = torch.empty(2, 77, 48 if "without" in request.param else 56)
            text = Conditioning(tokens, {"pooled": torch.empty(2, 32)})
            base.predict(torch.empty(2, *base.latent_shape), torch.empty(2), text)
        return counter.peak, sum(tensor.nbytes for tensor in base.denoiser.state_dict().values())

    return count


@pytest.mark.chain
def test_a_plan_counts_the_crop_alone_and_files_whole(planned: Any) -> None:
    (small, file), (large, larger_file) = planned(8), planned(128)
    assert small == large
    assert larger_file - file == (128**2 - 8**2) * 4 * 32


@pytest.mark.parametrize(("trainer", "count"), [("cpu", 1), ("gpu", 0)])
def test_a_plan_says_that_the_table_is_in_the_memory_of_the_cpu(folder: Path, trainer: str, count: int) -> None:
    given = ("base=sd35_medium", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    said = "\n".join(uncounted(Run(composed(*given, f"trainer={trainer}"))))
    assert said.count(f"{TABLE}, 0.00 GB on the CPU") == count
