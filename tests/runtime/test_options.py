"""Validation of option values: returned unchanged, or refused with the option's name."""

from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import flag, number, place, whole, wholes, words


def test_what_fits_is_given_back_unchanged() -> None:
    assert whole("seed", 0, least=0, below=1) == 0
    assert wholes("protocol.seeds", [3, 1], least=0) == [3, 1]
    assert number("prior.loss_weight", 1, least=0) == 1.0
    assert flag("tuner.norms", False) is False
    assert words("quant.exclude", ["conv_in"]) == ["conv_in"] and words("quant.exclude", []) == []
    assert place("paths.store", "~/store") == Path.home() / "store"


@pytest.mark.parametrize("value", [-1, 8, 1.0, "1", True, None, [1]])
def test_what_is_no_whole_number_in_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError) as caught:
        whole("seed", value, least=0, below=8)
    assert str(caught.value) == f"seed must be a whole number >= 0 and < 8, got {value!r}"


@pytest.mark.parametrize("value", ["true", 1, None, "yes"])
def test_what_is_no_switch_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match=rf"^tuner\.norms must be true or false, got {value!r}$"):
        flag("tuner.norms", value)


@pytest.mark.parametrize("value", [-0.1, 1, float("nan"), "0.5", True, None])
def test_what_is_no_number_in_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError) as caught:
        number("tuner.ema_decay", value, least=0, below=1)
    assert str(caught.value) == f"tuner.ema_decay must be a number >= 0 and < 1, got {value!r}"


@pytest.mark.parametrize("values", [5, "conv_in", None, {"a": 1}, ["conv_in", 3]])
def test_what_is_no_list_of_texts_is_refused(values: object) -> None:
    with pytest.raises(UserError, match=r"^quant\.include must be a list of texts such as \[conv_in,mid_block\.\*\], "):
        words("quant.include", values)


@pytest.mark.parametrize("value", [5, "", None, ["a"]])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"^paths\.store must be a path, got"):
        place("paths.store", value)


@pytest.mark.parametrize("values", [5, "12", None, {"a": 1}])
def test_what_is_no_list_is_refused(values: object) -> None:
    with pytest.raises(UserError, match=r"protocol\.seeds must be a list of whole numbers such as \[1,2\], got"):
        wholes("protocol.seeds", values, least=0)


def test_one_bad_entry_of_a_list_is_named() -> None:
    with pytest.raises(UserError, match=r"protocol\.seeds must be a whole number >= 0, got 'x'"):
        wholes("protocol.seeds", [0, "x"], least=0)


@pytest.mark.parametrize("value", [-0.1, float("nan"), "1", True, None])
def test_what_is_no_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"prior\.loss_weight must be a number >= 0, got"):
        number("prior.loss_weight", value, least=0)
