"""The numbers of a LoRA file: each factor once, floating-point, of some rank, finite when scaled."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.lora_files import add_loras_, lora_file
from quantbooth.runtime.errors import UserError

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = torch.ones(2, 128), torch.ones(128, 2)
KEY = f"unet.{LAYER}"


@pytest.fixture
def fresh(base: Base) -> Base:
    return base.with_denoiser(deepcopy(base.denoiser))


def written(folder: Path, tensors: dict[str, Tensor]) -> str:
    path = folder / "style.safetensors"
    save_file({f"{KEY}.{name}": tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


FAULTS = {
    "rank of none": ({"lora_A.weight": A[:0], "lora_B.weight": B[:, :0]}, "rank of 1 or more"),
    "one number": ({"lora_A.weight": A[0, 0], "lora_B.weight": B}, "rank of 1 or more"),
    "alphas": ({"lora_A.weight": A, "lora_B.weight": B, "alpha": A[0]}, "one number as alpha"),
    "whole": ({"lora_A.weight": A.to(torch.int8), "lora_B.weight": B}, "lora_A.weight' .* found I8$"),
    "truth": ({"lora_A.weight": A, "lora_B.weight": B > 0}, "lora_B.weight' .* found BOOL$"),
    "large": ({"lora_A.weight": 1e300 * A.double(), "lora_B.weight": B}, "lora_A.weight' must be finite in float32$"),
    "product": (
        {"lora_A.weight": A, "lora_B.weight": 1e30 * B, "alpha": 1e30 * A[0, 0]},
        "must be finite; choose a smaller weight$",
    ),
    "twice": (
        {"lora_A.weight": A, "lora_B.weight": B, "lora.down.weight": A, "lora.up.weight": B},
        rf" holds [AB] of {KEY} twice, .*'{KEY}.lora[._]\w+.weight'$",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_numbers_that_no_lora_has_are_refused_by_key(fresh: Base, tmp_path: Path, fault: str) -> None:
    tensors, told = FAULTS[fault]
    path = written(tmp_path, tensors)
    with pytest.raises(UserError, match=told) as caught:
        add_loras_(fresh, [lora_file(path)])
    assert path in str(caught.value) and LAYER in str(caught.value)
    assert not any(hasattr(module, "foreign_A") for module in fresh.denoiser.modules())


def test_eight_bit_floats_and_a_whole_alpha_are_read(fresh: Base, tmp_path: Path) -> None:
    halves = {f"lora_{name}.weight": half.to(torch.float8_e4m3fn) for name, half in (("A", A), ("B", B))}
    add_loras_(fresh, [lora_file(written(tmp_path, {**halves, "alpha": torch.tensor(4)}))])
    assert fresh.denoiser.get_submodule(LAYER).foreign_B.unique().tolist() == [2.0]
