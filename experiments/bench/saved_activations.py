"""How many bytes of activations autograd keeps between forward and backward."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["kept_bytes"]


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that the graph of `forward` saves, without those of the model itself.

    Under activation checkpointing it is what waits for the backward: the inputs of blocks. What is recomputed there
    comes on top, one block at a time.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that its address is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in storages.values())
