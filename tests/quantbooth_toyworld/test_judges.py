"""Tiny judges with random weights: outputs, refusals and files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import weights_fingerprint
from quantbooth_toyworld.judges import (
    Oracle,
    ToyLocator,
    ToyScorer,
    WordTokenizer,
    load_locator,
    load_oracle,
    load_scorer,
)
from quantbooth_toyworld.shipped import halve_, save_judge

WORDS = ("a", "duck", "mug", "red")
NAMES = {"class_word": ("mug", "duck"), "emblem": ("none", "star", "moon")}


def _pictures(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _scorer(seed: int = 0) -> ToyScorer:
    torch.manual_seed(seed)
    return ToyScorer(WORDS, widths=(4, 8), features=8, length=6).eval()


def _locator(seed: int = 0) -> ToyLocator:
    torch.manual_seed(seed)
    return ToyLocator(widths=(4, 6, 8), least=10).eval()


def _oracle(seed: int = 0) -> Oracle:
    torch.manual_seed(seed)
    return Oracle(NAMES, widths=(4, 8)).eval()


def test_tokenizer_ends_on_the_highest_number_and_reads_any_case() -> None:
    tokenizer = WordTokenizer(WORDS, length=6)
    assert tokenizer(["a red mug", "Duck"]).tolist() == [[5, 1, 4, 3, 6, 0], [5, 2, 6, 0, 0, 0]]
    assert tokenizer.size == 7


def test_unknown_words_and_long_sentences_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="no word 'dragon'"):
        _scorer().texts(["a red dragon"])
    with pytest.raises(UserError, match="at most 4 words, got 5"):
        _scorer().texts(["a red red red mug"])


def test_scorer_features_have_length_one_and_tell_sentences_apart() -> None:
    scorer = _scorer()
    images, texts = scorer.images(_pictures(3)), scorer.texts(["a mug", "a red mug"])
    assert images.shape == (3, 8)
    assert texts.shape == (2, 8)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))
    assert (texts[0] - texts[1]).abs().max() > 1e-3


def test_padding_changes_nothing() -> None:
    long, short = _scorer(), _scorer()
    short.tokenizer = WordTokenizer(WORDS, length=4)
    positions = short.clip.positional_embedding
    short.clip.positional_embedding = nn.Parameter(positions[:4])
    short.clip.attn_mask = short.clip.attn_mask[:4, :4]
    torch.testing.assert_close(long.texts(["a mug"]), short.texts(["a mug"]))


def test_oracle_gives_probabilities_in_the_order_of_its_names() -> None:
    found = _oracle().probabilities(_pictures(4))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"class_word": (4, 2), "emblem": (4, 3)}
    for value in found.values():
        torch.testing.assert_close(value.sum(dim=1), torch.ones(4))


def test_locator_boxes_are_those_of_its_masks() -> None:
    everything, nothing = (_decided(logit).boxes(_pictures(2), "mug") for logit in (1.0, -1.0))
    assert everything.found.all()
    assert not nothing.found.any()
    assert everything.xyxy.tolist() == nothing.xyxy.tolist() == [[0, 0, 32, 32]] * 2


def _decided(logit: float) -> ToyLocator:
    """A locator that gives every pixel the same log-odds."""
    locator = _locator()
    state = locator.state_dict()
    state["out.weight"].zero_()
    state["out.bias"].fill_(logit)
    return locator


def test_pictures_of_another_size_are_refused() -> None:
    for call in (_scorer().images, _locator().masks, _oracle().probabilities):
        with pytest.raises(UserError, match="reads 32 x 32 pictures, got 64 x 64"):
            call(_pictures(1, 64))


@pytest.mark.parametrize(("make", "load"), [(_scorer, load_scorer), (_locator, load_locator), (_oracle, load_oracle)])
def test_a_saved_judge_comes_back_bit_for_bit_and_frozen(make, load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    judge = make()
    halve_(judge)
    save_judge(judge, tmp_path, {"accuracy": 0.5})
    found = load(tmp_path)
    assert found.config == judge.config
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    for key, value in judge.state_dict().items():
        assert found.state_dict()[key].dtype == value.dtype
        assert torch.equal(found.state_dict()[key], value), key
    assert json.loads((tmp_path / f"{judge.kind}.json").read_text())["figures"] == {"accuracy": 0.5}


def test_floats_are_stored_in_16_bits(tmp_path: Path) -> None:
    save_judge(_oracle(), tmp_path)
    kinds = {value.dtype for key, value in load_file(tmp_path / "oracle.safetensors").items() if "tracked" not in key}
    assert kinds == {torch.float16}


def test_name_changes_with_the_weights_only() -> None:
    assert _scorer(0).name == _scorer(0).name != _scorer(1).name
    assert weights_fingerprint(_oracle(0)) in {weights_fingerprint(_oracle(0))} - {weights_fingerprint(_oracle(1))}
    assert weights_fingerprint(_locator()) in _locator().name


def test_a_missing_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no toy judge at .*oracle\.json"):
        load_oracle(tmp_path)


def test_a_judge_of_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    save_judge(_oracle(), tmp_path)
    for end in ("json", "safetensors"):
        (tmp_path / f"oracle.{end}").rename(tmp_path / f"locator.{end}")
    with pytest.raises(UserError, match="must describe a locator in format 1, got kind 'oracle'"):
        load_locator(tmp_path)


def test_weights_that_do_not_fit_the_description_are_refused(tmp_path: Path) -> None:
    oracle, file = _oracle(), tmp_path / "oracle.safetensors"
    save_judge(oracle, tmp_path)
    weights = load_file(file)
    for change, message in (
        ({"extra": torch.ones(1)}, "got extra on one side only"),
        ({"heads.emblem.bias": torch.ones(2)}, r"heads\.emblem\.bias must be \[3\], got \[2\]"),
        ({"heads.emblem.bias": torch.full((3,), float("nan"))}, r"not finite in heads\.emblem\.bias"),
    ):
        save_file({**weights, **change}, file)
        with pytest.raises(UserError, match=message):
            load_oracle(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_judge(_oracle(), tmp_path)
    (tmp_path / "oracle.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="is damaged"):
        load_oracle(tmp_path)
    save_judge(_oracle(), tmp_path)
    (tmp_path / "oracle.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_oracle(tmp_path)
