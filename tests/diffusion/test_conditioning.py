"""Conditioning: all operations keep the rows, and tensors round-trip."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantbooth.diffusion.conditioning import Conditioning


@pytest.fixture
def whole(generator: torch.Generator) -> Conditioning:
    """Three rows with a mask beside the tokens."""
    tokens, mask = torch.randn(3, 5, 4, generator=generator), torch.tensor([[1, 1], [1, 0], [0, 0]], dtype=torch.bool)
    return Conditioning(tokens, {"mask": mask, "pooled": torch.randn(3, 2, generator=generator)})


def same(one: Conditioning, other: Conditioning) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) and tensor.dtype == other.tensors[name].dtype
        for name, tensor in one.tensors.items()
    )


def test_tensors_come_back_through_a_file(whole: Conditioning, tmp_path: Path) -> None:
    assert same(Conditioning.from_tensors(whole.tensors), whole)
    save_file(whole.tensors, tmp_path / "x.safetensors")
    assert same(Conditioning.from_tensors(load_file(tmp_path / "x.safetensors")), whole)


def test_pieces_put_together_are_the_whole(whole: Conditioning) -> None:
    assert len(whole) == 3
    assert same(Conditioning.cat([whole[:1], whole[1:]]), whole)
    assert same(Conditioning.cat([whole[[row]] for row in range(3)]), whole)
    assert same(whole[torch.tensor([0, 1, 2])], whole)
    assert same(whole[torch.tensor([True, False, True])], whole[[0, 2]])


def test_one_row_is_repeated(whole: Conditioning) -> None:
    assert same(whole[1:2].expand(4), whole[[1, 1, 1, 1]])
    with pytest.raises(ValueError, match="must have one row to be repeated, got 3"):
        whole.expand(2)


def test_rows_are_chosen_one_by_one(whole: Conditioning) -> None:
    other = whole[[2, 2, 2]]
    first = torch.tensor([True, False, True])
    assert same(Conditioning.where(first, whole, other), Conditioning.cat([whole[:1], whole[2:], whole[2:]]))


def test_precision_is_that_of_floats_alone(whole: Conditioning) -> None:
    found = whole.to(torch.float64)
    assert {name: tensor.dtype for name, tensor in found.tensors.items()} == {
        **{"tokens": torch.float64, "mask": torch.bool, "pooled": torch.float64}
    }
    assert same(found.to(torch.float32), whole)
    assert same(whole.to("cpu"), whole)
    assert (found.dtype, found.device) == (torch.float64, torch.device("cpu"))


def test_a_gradient_passes_until_it_is_cut() -> None:
    tokens = torch.zeros(1, 2, 3, requires_grad=True)
    whole = Conditioning(tokens)
    assert whole.expand(2)[[0]].tokens.requires_grad
    assert not whole.detach().tokens.requires_grad


def test_what_is_no_set_of_rows_is_refused(whole: Conditioning) -> None:
    tokens = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="'pooled' must have 2 rows, as 'tokens' has, got 3"):
        Conditioning(tokens, {"pooled": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="must have another name than 'tokens'"):
        Conditioning(tokens, {"tokens": tokens})
    with pytest.raises(ValueError, match="must have 'tokens', found 'pooled'"):
        Conditioning.from_tensors({"pooled": tokens})
    with pytest.raises(ValueError, match="tensors of the same names"):
        Conditioning.cat([whole, Conditioning(tokens)])
    with pytest.raises(ValueError, match="tensors of the same names"):
        Conditioning.where(torch.tensor([True, False, True]), Conditioning(whole.tokens), whole)
    with pytest.raises(ValueError, match="tensors of the same names, got none"):
        Conditioning.cat([])
    with pytest.raises(TypeError):  # a checker of annotations may be first to say so
        whole[0]  # type: ignore[index]
