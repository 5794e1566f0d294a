"""Points: one before every quantized layer, three in every attention of theirs, none elsewhere; parts as of weights."""

from copy import deepcopy
from functools import partial

from quantbooth.calibration.fake_quantizers import fake_quantizers, insert_fake_quantizers_
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.unet import concatenations
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from quantbooth.quant.surgery import quantize_


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
