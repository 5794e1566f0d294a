"""Quantized attention: diffusers' own result when quantizers are off, the formula when on, records, refusals."""

import json
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, XFormersAttnProcessor
from torch import nn

from quantbooth.calibration.quantized_attention import (
    QuantizedAttention,
    as_records,
    empty_attention_,
    from_records,
    install_,
    quantized_attentions,
)
from quantbooth.quant.activations import ActivationBits, ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError


class Holder(nn.Module):
    """A model with one attention of each kind."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.own = Attention(16, heads=2, dim_head=8, **options)
        self.cross = Attention(16, cross_attention_dim=10, heads=2, dim_head=8, bias=True)


@pytest.fixture
def model() -> Holder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Holder().requires_grad_(False)


def fitted(bits: int) -> ActivationQuantizer:
    made = ActivationQuantizer(bits)
    made.fit_(torch.tensor([-2.0]), torch.tensor([2.0]))
    return made


@pytest.mark.parametrize("options", [{}, {"upcast_attention": True, "residual_connection": True, "norm_num_groups": 4}])
@pytest.mark.parametrize("image", [False, True])
def test_without_quantizers_it_is_diffusers_own(
    generator: torch.Generator, options: dict[str, Any], image: bool
) -> None:
    model = Holder(**options)
    assert isinstance(model.own.processor, AttnProcessor2_0)
    x = torch.randn(3, 16, 2, 3, generator=generator) if image else torch.randn(3, 6, 16, generator=generator)
    theirs = model.own(x)
    install_(model, "own", QuantizedAttention(nn.Identity, None))
    torch.testing.assert_close(model.own(x), theirs, rtol=1e-5, atol=1e-6)


def test_without_quantizers_across_and_under_a_mask_it_is_diffusers_own(
    model: Holder, generator: torch.Generator
) -> None:
    x, text = torch.randn(3, 6, 16, generator=generator), torch.randn(3, 4, 10, generator=generator)
    mask = torch.tensor([0.0, 0.0, -1e4, 0.0]).expand(3, 1, 4)
    theirs = [model.cross(x, text), model.cross(x, text, attention_mask=mask)]
    install_(model, "cross", QuantizedAttention(nn.Identity, None))
    ours = [model.cross(x, text), model.cross(x, text, attention_mask=mask)]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_queries_keys_values_and_probabilities_are_each_on_their_grid(
    model: Holder, generator: torch.Generator
) -> None:
    """A loop over heads in float64."""
    x = torch.randn(2, 6, 16, generator=generator)
    install_(model, "own", QuantizedAttention(partial(fitted, 4), 6))
    own, on = model.own, fitted(4)
    assert isinstance(own, Attention)
    q, k, v = (on(layer(x)).double() for layer in (own.to_q, own.to_k, own.to_v))
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        p = (q[..., head] @ k[..., head].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append((p * 63).round() / 63 @ v[..., head])
    expected = own.to_out[0](torch.cat(heads, -1).float())
    torch.testing.assert_close(own(x), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_what_lies_before_it(model: Holder, generator: torch.Generator) -> None:
    install_(model, "own", QuantizedAttention(partial(fitted, 8), 16))
    x = torch.randn(2, 6, 16, generator=generator, requires_grad=True)
    model.own(x).square().sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())


def test_attentions_count_where_a_layer_inside_is_quantized(model: Holder) -> None:
    assert quantized_attentions(model) == []
    quantize_(model, MinMaxObserver(Grid(8)), include=("cross.to_v",))
    assert quantized_attentions(model) == ["cross"]


def test_what_is_recorded_is_installed_again_on_the_meta_device(model: Holder, generator: torch.Generator) -> None:
    bits = {"own": ActivationBits(5, 9), "cross": ActivationBits(4, None)}
    x = torch.randn(2, 6, 16, generator=generator)
    for name, own in bits.items():
        install_(model, name, QuantizedAttention(partial(fitted, own.inputs), own.softmax))
    records = from_records(json.loads(json.dumps(as_records(bits))))
    assert records == bits
    with torch.device("meta"):
        loaded = Holder()
    empty_attention_(loaded, records)
    assert all(tensor.device.type == "meta" for tensor in loaded.state_dict().values())
    loaded.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(loaded.own(x), model.own(x))
    assert torch.equal(deepcopy(loaded).own(x), model.own(x))


def test_attention_of_another_kind_is_refused(model: Holder) -> None:
    made = QuantizedAttention(nn.Identity, None)
    with pytest.raises(UserError, match=r"'own.to_q' must be an attention module of the denoiser, got Linear"):
        install_(model, "own.to_q", made)
    model.own.processor = XFormersAttnProcessor()
    with pytest.raises(UserError, match=r"where AttnProcessor computes attention, got XFormersAttnProcessor in 'own'"):
        install_(model, "own", made)
    with pytest.raises(UserError, match=r"got AttnProcessor2_0, with queries or keys normalized in 'own'"):
        install_(Holder(qk_norm="layer_norm"), "own", made)


def test_installing_on_one_leaves_the_other(model: Holder) -> None:
    install_(model, "own", QuantizedAttention(nn.Identity, None))
    assert isinstance(model.cross.processor, AttnProcessor2_0)
    assert not [name for name in model.state_dict() if "processor" in name]
