"""Prediction errors: a float64 loop over the triples, no damage where there is none, more damage with fewer bits."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.evaluation.prediction_errors import Rows, Triple, draw_triples, measure_predictions
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import zones_from_borders

ZONES = zones_from_borders({"early": [0, 300], "late": [300, 1000]}, 1000)
TEXTS = ["a red mug", "a duck on the beach", "a photo of a mug"]
TRIPLES = draw_triples(ZONES, 3, seed=4)

Found = tuple[Rows, Tensor]
Measure = Callable[..., Found]


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(3, 24, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def measure(latents: Tensor, loop: Loop) -> Measure:
    """Measures all triples, so many at a time."""

    def run(base: Base, reference: Tensor | None = None, batch: int = 4) -> Found:
        return measure_predictions(base, TRIPLES, TEXTS, latents, reference, loop, batch, "measuring")

    return run


@pytest.fixture(scope="module")
def of_float(measure: Measure, small_base: Base) -> Found:
    return measure(small_base)


def quantized(denoiser: nn.Module, bits: int) -> nn.Module:
    made = deepcopy(denoiser)
    quantize_(made, MinMaxObserver(Grid(bits)))
    return made


def test_triples_cover_each_zone_and_each_place_once() -> None:
    assert [triple.zone for triple in TRIPLES] == ["early"] * 3 + ["late"] * 3
    for zone in ZONES.zones:
        found = [triple for triple in TRIPLES if triple.zone == zone.name]
        assert {triple.place for triple in found} == {0, 1, 2}
        assert all(zone.start <= triple.t < zone.stop for triple in found)
    assert draw_triples(ZONES, 3, seed=4) == TRIPLES
    assert draw_triples(ZONES, 3, seed=5) != TRIPLES


def test_noise_is_decided_by_seed_zone_and_place() -> None:
    noises = [triple.noise((24, 8, 8)) for triple in (*TRIPLES, *draw_triples(ZONES, 3, seed=5))]
    assert len({float(noise.sum()) for noise in noises}) == 12
    assert torch.equal(TRIPLES[0].noise((24, 8, 8)), noises[0])
    assert float(torch.stack(noises).std()) == pytest.approx(1.0, abs=0.02)
    draw = generator_for(4, 2, "noise late")  # these names decide what a later run repeats
    assert torch.equal(Triple("late", 2, 800, 4).noise((1, 2, 3)), torch.randn(1, 2, 3, generator=draw))


def test_errors_equal_a_loop_in_float64(measure: Measure, small_base: Base, latents: Tensor) -> None:
    denoiser = quantized(small_base.denoiser, 3)
    found = measure(small_base.with_denoiser(denoiser), measure(small_base)[1])[0]
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)
    exact, small = deepcopy(small_base.denoiser).double(), deepcopy(small_base.denoiser).double()
    for name, layer in quantized_layers(denoiser):
        small.get_submodule(name).get_parameter("weight").data = layer.dequantized().double()
    for triple, row in zip(TRIPLES, found, strict=True):
        noise, a = triple.noise((24, 8, 8)).double()[None], alpha_bar[triple.t]
        x_t = a.sqrt() * latents[triple.place].double()[None] + (1 - a).sqrt() * noise
        text = small_base.encode_prompts([TEXTS[triple.place]]).tokens.double()
        with torch.no_grad():
            f, q = (u(x_t, triple.t, encoder_hidden_states=text).sample for u in (exact, small))
        expected = {"float_error": (f - noise), "error": (q - noise), "deviation": (q - f)}
        assert (row["zone"], row["place"], row["t"]) == (triple.zone, triple.place, triple.t)
        assert row["text"] == TEXTS[triple.place]
        for name, difference in expected.items():
            assert row[name] == pytest.approx(float(difference.square().mean()), rel=1e-4)


def test_a_base_is_no_distance_from_itself(measure: Measure, small_base: Base, of_float: Found) -> None:
    again = measure(small_base, of_float[1])
    for row in (*of_float[0], *again[0]):
        assert row["deviation"] == 0.0
        assert row["error"] == row["float_error"]


def test_a_float_base_with_the_dequantized_weights_takes_no_damage(measure: Measure, small_base: Base) -> None:
    denoiser, same = quantized(small_base.denoiser, 4), deepcopy(small_base.denoiser)
    for name, layer in quantized_layers(denoiser):
        same.get_submodule(name).get_parameter("weight").data = layer.dequantized()
    of_same = measure(small_base.with_denoiser(same))
    found, _ = measure(small_base.with_denoiser(denoiser), of_same[1])
    assert max(row["deviation"] for row in found) < 1e-10  # the bias is added in another place


def test_fewer_bits_deviate_more(measure: Measure, small_base: Base, of_float: Found) -> None:
    reference, deviations = of_float[1], []
    for bits in (8, 4, 2):
        rows = measure(small_base.with_denoiser(quantized(small_base.denoiser, bits)), reference)[0]
        deviations.append(sum(row["deviation"] for row in rows))
        assert all(row["float_error"] == of_float[0][k]["float_error"] for k, row in enumerate(rows))
    assert 0 < deviations[0] < deviations[1] < deviations[2]


def test_batches_change_nothing_that_counts(measure: Measure, small_base: Base, of_float: Found) -> None:
    alone = measure(small_base, batch=1)
    torch.testing.assert_close(alone[1], of_float[1], atol=1e-5, rtol=1e-4)
