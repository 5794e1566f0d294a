"""Cases: what stands beside what, and refusals."""

import pytest

from experiments.bench.cases import MODULES, Case, Setting, reference, settings, units
from experiments.bench.sizes import SIZES, empty_denoiser
from quantbooth.runtime.errors import UserError


@pytest.mark.parametrize("name", SIZES)
def test_a_denoiser_has_as_many_weights_as_its_size_says_and_no_byte(name: str) -> None:
    denoiser = empty_denoiser(name)
    assert all(parameter.is_meta for parameter in denoiser.parameters())
    matrices = [module.weight.numel() for module in denoiser.modules() if type(module).__name__ == "Linear"]
    assert sum(matrices) == SIZES[name].linear


def test_the_sizes_are_those_of_the_published_models() -> None:
    assert (SIZES["sd15"].parameters, SIZES["sdxl"].parameters) == (859_520_964, 2_567_463_684)


def test_a_key_is_a_case_and_a_row_may_hold_more(tiny: Setting) -> None:
    for unit in units(tiny, MODULES):
        for case in unit:
            assert Case.of({**case.key, "step_s": 1.0}) == case


def test_every_method_has_a_case_and_mixed_sets_stand_beside_one_set_of_the_same_batch(tiny: Setting) -> None:
    found = units(tiny, MODULES)
    assert {case.method for unit in found for case in unit} == set(MODULES)
    assert reference(tiny) in [case for unit in found for case in unit]
    pairs = [unit for unit in found if len(unit) > 1]
    assert [(one.batch, one.sets, many.batch, many.sets) for one, many in pairs] == [(3, 1, 3, 3), (8, 1, 8, 8)]


def test_settings_are_every_combination() -> None:
    found = list(settings(["sd15", "sdxl"], [32, 64], [False, True], "cpu"))
    assert len(found) == len(set(found)) == 8


def test_what_cannot_be_is_refused(tiny: Setting) -> None:
    with pytest.raises(UserError, match="model must be one of sd15, .*, tiny-klein, got 'sd3'"):
        Setting("sd3", 32, False)
    with pytest.raises(UserError, match="latents must be a multiple of 8 .*, got 33"):
        Setting("sd15", 33, False)
    with pytest.raises(UserError, match="method must be one of floor, float, .* got 'ia3'"):
        units(tiny, ["ia3"])
