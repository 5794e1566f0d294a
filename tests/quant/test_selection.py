"""The selection: a set index per sample."""

import copy

import pytest
import torch
from torch import nn

from quantbooth.quant.selection import SetSelection


def test_raises_until_chosen_and_after_clear() -> None:
    selection = SetSelection()
    with pytest.raises(RuntimeError, match="must be chosen for every sample"):
        _ = selection.choice
    selection.choose(torch.tensor([0, 2]))
    assert selection.choice.tolist() == [0, 2]
    selection.clear()
    with pytest.raises(RuntimeError, match="must be chosen for every sample"):
        selection.checked(2, 2)


def test_names_both_batch_sizes() -> None:
    selection = SetSelection()
    selection.choose(torch.tensor([0, 1, 1]))
    with pytest.raises(RuntimeError, match="chosen for 3 samples, got 4"):
        selection.checked(4, 1)


def test_refuses_a_set_the_layer_does_not_hold() -> None:
    selection = SetSelection()
    selection.choose(torch.tensor([0, 3]))
    with pytest.raises(RuntimeError, match=r"sets in \[0, 2\], got 3"):
        selection.checked(2, 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "index", [torch.tensor([1], dtype=torch.int32), torch.tensor(1), torch.tensor([[1]]), torch.zeros(0).long()]
)
def test_refuses_what_is_no_index_vector(index: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="non-empty int64 vector"):
        SetSelection().choose(index)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "shares",
    [torch.tensor([1.0]), torch.tensor(1.0), torch.zeros(0, 2), torch.tensor([[float("nan")]]), torch.ones(1, 1, 1)],
)
def test_refuses_what_is_no_matrix_of_shares(shares: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="shares must be a non-empty matrix of finite numbers"):
        SetSelection().choose(shares)


def test_refuses_shares_of_another_number_of_sets_or_samples() -> None:
    selection = SetSelection()
    selection.choose(torch.ones(2, 3))
    assert selection.checked(2, 3).tolist() == [[1.0] * 3] * 2
    with pytest.raises(RuntimeError, match="shares of 2 sets, got 3"):
        selection.checked(2, 2)
    with pytest.raises(RuntimeError, match="chosen for 2 samples, got 3"):
        selection.checked(3, 3)


def test_refuses_negative_numbers_which_would_count_from_the_end() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        SetSelection().choose(torch.tensor([0, -1]))


def test_keeps_its_choice_when_the_given_tensor_changes() -> None:
    selection, index = SetSelection(), torch.tensor([1, 2])
    selection.choose(index)
    index.zero_()
    assert selection.choice.tolist() == [1, 2]


def test_a_deep_copied_model_follows_the_same_selection() -> None:
    model = nn.Identity()
    model.selection = SetSelection()  # type: ignore[assignment]
    assert copy.deepcopy(model).selection is model.selection
