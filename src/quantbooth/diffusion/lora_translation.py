"""LoRA files of transformers in the names of the original code, under diffusers' names by its pipelines' translation.

Other tools name layers as the original code does, in which some are one: of `img_attn.qkv` diffusers makes `to_q`,
`to_k` and `to_v`, each with A and a part of B. Its pipelines translate such files before they load them; some leave out
what they do not know, or an alpha. So alpha / r is multiplied into B before, and after it B must have as many numbers
that are not 0.
"""

from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor

from quantbooth.diffusion.model import Family
from quantbooth.diffusion.weights import OF_NONSENSE

__all__ = ["translated"]

DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
UP = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight")
ALPHA = ".alpha"


def translated(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor] | None:
    """Return the tensors of a file under diffusers' names; None where the family's pipeline does not know all of them.

    Args:
        tensors: by the names in the file.
        family: of the base.
    """
    read = getattr(family.pipeline_class, "lora_state_dict", None)
    if read is None:
        return None
    with suppress(*OF_NONSENSE, StopIteration):  # of a file of another base, an alpha without factors
        found: dict[str, Tensor] = read(_with_alpha_in_b(tensors))
        if _ups(found) == _ups(tensors) and all(name.endswith(DOWN + UP) for name in found):
            return found
    return None


def _with_alpha_in_b(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same LoRA in float32 without alpha, which is r where there is none."""
    made = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(ALPHA)}
    for name in tensors.keys() - made.keys():
        layer = name.removesuffix(ALPHA)
        rank = next(len(tensors[layer + end]) for end in DOWN if layer + end in tensors)
        up = next(layer + end for end in UP if layer + end in tensors)
        made[up] = made[up] * (float(tensors[name]) / rank)
    return made


def _ups(tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers of all B are not 0: those between the parts of a joined layer are left out."""
    return sum(int(tensor.count_nonzero()) for name, tensor in tensors.items() if name.endswith(UP))
