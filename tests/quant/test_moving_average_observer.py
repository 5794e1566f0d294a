"""Moving-average min-max observer: the average by hand, separate parts, unchanged input, refusal without data."""

import pytest
import torch

from quantbooth.quant.observers import MovingAverageMinMaxObserver


def test_extremes_are_averaged_from_the_first_batch_on(generator: torch.Generator) -> None:
    watch, batches = MovingAverageMinMaxObserver(0.9), torch.randn(4, 2, 3, generator=generator)
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches:
        assert watch(batch) is batch
    for batch in batches[1:]:
        low, high = 0.9 * low + 0.1 * float(batch.min()), 0.9 * high + 0.1 * float(batch.max())
    assert watch.seen is not None
    assert [float(extreme) for extreme in watch.seen] == pytest.approx([low, high], rel=1e-6)
    made = watch.quantizer(8)
    assert float(made.scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert int(made.zero) == round(-low / float(made.scale))


def test_parts_are_watched_apart(generator: torch.Generator) -> None:
    x = torch.randn(2, 5, 3, generator=generator)
    watch = MovingAverageMinMaxObserver(0.5, (2, 3), channel=1)
    watch(x)
    assert watch.seen is not None
    assert [tuple(extreme.tolist()) for extreme in watch.seen] == [
        (float(x[:, :2].min()), float(x[:, 2:].min())),
        (float(x[:, :2].max()), float(x[:, 2:].max())),
    ]
    assert watch.quantizer(4).scale.shape == (2,)


def test_a_range_that_nobody_saw_is_refused() -> None:
    with pytest.raises(ValueError, match="must be seen before it is quantized"):
        MovingAverageMinMaxObserver(0.9).quantizer(8)
