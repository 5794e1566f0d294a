"""Points: one before every quantized layer, three in every attention of theirs, none elsewhere; parts as of weights."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.fake_quantizers import fake_quantizers, insert_fake_quantizers_, observe_ranges
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.lightning import Loop


def test_every_quantized_layer_and_its_attentions_have_points(base: Base) -> None:
    made = deepcopy(base.denoiser)
    splits = concatenations(made)
    quantize_(made, MinMaxObserver(Grid(8)), exclude=["conv_in", "conv_out", "down_blocks.*"], splits=splits)
    attentions = insert_fake_quantizers_(made, partial(MovingAverageMinMaxObserver, 0.9), 16)
    layers = dict(quantized_layers(made))
    expected = {f"{name}.input_quantizer" for name in layers}
    expected |= {f"{name}.processor.{of}" for name in attentions for of in ("query", "key", "value")}
    assert set(fake_quantizers(made)) == expected
    assert attentions and all(name.startswith(("up_blocks.", "mid_block.")) for name in attentions)
    assert {name for name, point in fake_quantizers(made).items() if point.split} == {
        f"{n}.input_quantizer" for n in splits
    }
    insert_fake_quantizers_(made, partial(ActivationQuantizer, 8), 16)
    assert set(fake_quantizers(made)) == expected
    assert {type(point) for point in fake_quantizers(made).values()} == {ActivationQuantizer}


@pytest.mark.parametrize("seed", [0, 3])
def test_ranges_are_moving_averages_over_batches_in_an_order_of_the_seed_alone(
    small_base: Base, items: CalibrationSet, loop: Loop, seed: int
) -> None:
    """Of the first convolution, whose input is x_t itself."""
    made = deepcopy(small_base.denoiser)
    quantize_(made, MinMaxObserver(Grid(8)), include=["conv_in"])
    insert_fake_quantizers_(made, partial(MovingAverageMinMaxObserver, 0.9), None)
    observe_ranges(small_base.with_denoiser(made), items, seed, 5, loop)
    order = torch.randperm(len(items), generator=generator_for(seed, 0, "activation ranges")).tolist()
    low = high = None
    for start in range(0, len(items), 5):
        x = items.batch(order[start : start + 5]).x.double()
        low = float(x.min()) if low is None else 0.9 * low + 0.1 * float(x.min())
        high = float(x.max()) if high is None else 0.9 * high + 0.1 * float(x.max())
    found = made.conv_in.input_quantizer.seen
    assert [float(part) for part in found] == pytest.approx([low, high], rel=1e-5)
