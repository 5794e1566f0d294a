"""Remembered operations: what they make is what the operation makes, with the same memory."""

import torch
from torch import Tensor

from quantbooth.planning.live_bytes import LiveBytes, fake
from quantbooth.planning.memo import Memo


def described(value: object) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.storage_offset(), value.dtype, str(value.device)
    return [described(each) for each in value] if isinstance(value, tuple | list) else value


def work(x: Tensor) -> list[object]:
    """Call new tensors, views, changes in place, lists of views and kinds of numbers."""
    views = x[1:].t().expand(2, 5, 3)
    parts = x.split([1, 3], dim=0)
    changed = x.mul_(2)
    made = [views, parts, changed, x + 1, x.int() + 1, x.int() + 1.0, x.half(), torch.cat([x, x]), x.sum(0), x.topk(2)]
    assert changed is x and parts[1].untyped_storage()._cdata == x.untyped_storage()._cdata
    return [described(each) for each in made]


def test_a_remembered_operation_makes_the_same() -> None:
    plain = work(torch.ones(4, 5))
    with fake() as mode, LiveBytes(Memo(mode)):
        for _ in range(3):
            assert work(torch.ones(4, 5)) == plain


def test_new_tensors_have_the_default_dtype_of_their_time() -> None:
    with fake() as mode, LiveBytes(Memo(mode)):
        for dtype in (torch.float32, torch.float16):
            torch.set_default_dtype(dtype)
            try:
                assert torch.ones(4).dtype == dtype
            finally:
                torch.set_default_dtype(torch.float32)


def test_memory_is_that_of_operations_that_are_not_remembered() -> None:
    def step() -> Tensor:
        layer = torch.nn.Conv2d(3, 8, 3)
        return layer(torch.ones(2, 3, 9, 9).requires_grad_()).relu().unbind(1)[3].square().mean()

    found = []
    for remembers in (False, True):
        with fake() as mode, LiveBytes(Memo(mode)) if remembers else LiveBytes() as counter:
            for _ in range(3):
                step().backward()
            kept = step()
            found.append((counter.live, counter.peak, kept.shape))
    assert found[0] == found[1]


def test_a_change_of_shape_in_place_is_not_remembered() -> None:
    with fake() as mode, LiveBytes(Memo(mode)):
        for _ in range(2):
            x = torch.ones(2, 3)
            assert x.t_() is x and x.shape == (3, 2)
