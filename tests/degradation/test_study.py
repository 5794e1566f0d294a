"""Damage studies: settings in order with labels as short as they may be, and measurements that do not compare."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from quantbooth.degradation.files import DegradationResult
from quantbooth.degradation.study import DegradationStudy, left_float
from quantbooth.runtime.errors import UserError

MakeDegradation = Callable[..., DegradationResult]


def labels(*found: DegradationResult) -> list[str]:
    study = DegradationStudy(found)
    return [study.label(result) for result in study.settings]


def test_most_bits_come_first_and_a_label_says_no_more_than_it_must(make_degradation: MakeDegradation) -> None:
    fp, w4, w8 = (make_degradation(quant) for quant in ("fp", "w4", "w8"))
    assert labels(fp, w4, w8) == ["w8", "w4"]
    assert DegradationStudy((w4, fp, w8)).quants == ("w8", "w4")
    assert DegradationStudy((w4, fp)).label(fp) == "float"


def test_labels_tell_calibration_options_and_float_layers_apart(make_degradation: MakeDegradation) -> None:
    fp, one = make_degradation("fp"), make_degradation()
    minmax = make_degradation(calibration="minmax", options={})
    everywhere = make_degradation(left_float=[])
    other = make_degradation(options={"lp_norm": 2.0})
    assert labels(fp, one, minmax) == ["w4, mse", "w4, minmax"]
    assert labels(fp, one, everywhere) == ["w4, conv_in + conv_out float", "w4, all quantized"]
    assert labels(fp, one, other) == ["w4, lp_norm=2.4", "w4, lp_norm=2.0"]
    assert labels(fp, one, other, minmax) == ["w4, mse, lp_norm=2.4", "w4, mse, lp_norm=2.0", "w4, minmax"]
    many = make_degradation(left_float=["a", "b", "c"])
    assert labels(fp, one, many) == ["w4, conv_in + conv_out float", "w4, 3 layers float"]
    assert (left_float(many), left_float(everywhere), left_float(one)) == ("3 layers", "none", "conv_in, conv_out")


def test_options_that_only_some_have_tell_only_those_apart(make_degradation: MakeDegradation) -> None:
    """Simulated activations have options of their own; their name tells them from weights alone."""
    fp, weights = make_degradation("fp"), make_degradation()
    one, other = (
        make_degradation("w4a8", options={"lp_norm": 2.4, "activations.momentum": m, "set.count": 2})
        for m in (0.9, 0.5)
    )
    assert labels(fp, weights, one) == ["w4", "w4a8"]
    assert labels(fp, weights, one, other) == ["w4", "w4a8, activations.momentum=0.9", "w4a8, activations.momentum=0.5"]


def test_a_family_is_what_settings_share_over_bits(make_degradation: MakeDegradation) -> None:
    found = [make_degradation(quant, calibration=name) for quant in ("w4", "w2") for name in ("mse", "minmax")]
    study = DegradationStudy((make_degradation("fp"), *found))
    assert study.families == ("mse", "minmax")
    assert [study.label(result) for result in study.settings] == ["w4, mse", "w4, minmax", "w2, mse", "w2, minmax"]


def test_measurements_against_different_float_ones_are_refused(make_degradation: MakeDegradation) -> None:
    fp, one = make_degradation("fp"), make_degradation(reference="e" * 64)
    with pytest.raises(UserError, match=rf"{fp.run} and {one.run} were compared with different float measurements"):
        DegradationStudy((fp, one))
    with pytest.raises(UserError, match="needs the float measurement, got only 1 quantized"):
        DegradationStudy((replace(one),))


def test_settings_that_no_option_tells_apart_have_the_digits_of_their_runs(make_degradation: MakeDegradation) -> None:
    one, other = (make_degradation("w4", added) for added in (0.1, 0.2))
    one, other = replace(one, run="a-w4-0123456789ab"), replace(other, run="a-w4-ba9876543210")
    assert labels(make_degradation("fp"), one, other) == ["w4, 0123456789ab", "w4, ba9876543210"]


def test_settings_of_a_quantization_tell_apart(make_degradation: MakeDegradation) -> None:
    found = [make_degradation("w4", options={"quant.symmetric": value}) for value in (True, False)]
    assert labels(make_degradation("fp"), *found) == ["w4, quant.symmetric=true", "w4, quant.symmetric=false"]
