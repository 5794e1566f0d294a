"""A prompt is read whole or refused with the words that would be lost, by every tokenizer and before any work."""

import re
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
from PIL import Image

from quantbooth import programs
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import read_tokenizers
from quantbooth.diffusion.prompt_length import require_whole
from quantbooth.evaluation.encoders import OpenClipEncoder
from quantbooth.runtime.errors import UserError

ROOM = 24
"""What the toy base reads, besides the marks of start and end."""


def test_what_fits_exactly_is_read_and_one_word_more_is_named(base: Base) -> None:
    base.encode_prompts(["mug " * ROOM])
    with pytest.raises(UserError, match=r"has 26 tokens, the text encoder reads 24, so 'duck duck' would be lost"):
        base.encode_prompts(["a mug", "mug " * ROOM + "duck duck"])


def test_the_second_tokenizer_counts_too(base_folder: Path) -> None:
    (first,) = read_tokenizers(base_folder)
    second = type(first).from_pretrained(str(base_folder / "tokenizer"), model_max_length=5)
    require_whole([first], ["a photo of a mug"])
    with pytest.raises(UserError, match="reads 3, so 'a mug' would be lost"):
        require_whole([first, second], ["a photo of a mug"])


def test_words_that_the_vocabulary_lacks_are_not_replaced_in_silence(base_folder: Path) -> None:
    (tokenizer,) = read_tokenizers(base_folder)
    require_whole([tokenizer], ["a zyzzyva"])  # by letters
    for prompt in ("a dög", "a 狗", f"a mug {tokenizer.unk_token} b"):
        with pytest.raises(UserError, match=f"lacks letters of '{re.escape(prompt)}'"):
            require_whole([tokenizer], [prompt])


@pytest.mark.parametrize("mode", [None, "clips"])
def test_a_tokenizer_of_transformers_is_asked_in_scoring(base_folder: Path, mode: str | None) -> None:
    """As SigLIP has one, which open_clip lets cut in silence."""
    encoder = OpenClipEncoder.__new__(OpenClipEncoder)
    encoder.__dict__["tokenizer"] = open_clip.tokenizer.HFTokenizer(
        str(base_folder / "tokenizer"), context_length=8, clean="canonicalize", tokenizer_mode=mode
    )
    encoder._require_whole("a red mug on beach")
    with pytest.raises(UserError, match=r"the scorer reads [56], so '(beach )?and duck' would be lost"):
        encoder._require_whole("a red mug on the beach and duck")


LONG = "a {} on the beach" + " and a duck on the beach" * 5


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (programs.sample, [f"prompt={LONG}"]),
        (programs.pipeline, [f"subject.templates=['{LONG}']", "subject=folder", "subject.class_word=mug"]),
        (programs.tune, ["subject=folder", f"subject.class_word={LONG.replace('{}', 'mug')}"]),
        (programs.calibrate, ["calibration=qdiffusion", f"calibration.set.prompts=['{LONG.replace('{}', 'mug')}']"]),
    ],
)
@pytest.mark.chain
def test_every_way_in_is_refused_before_any_work(
    typed: Callable[..., tuple[int, str]], tmp_path: Path, program: Callable[[], None], words: list[str]
) -> None:
    """The prompt, templates, the class word (so the class pictures of the prior too), the calibration's prompts."""
    (tmp_path / "rex").mkdir()
    Image.linear_gradient("L").resize((40, 40)).save(tmp_path / "rex" / "1.png")
    if "subject=folder" in words:
        words = [*words, f"subject.path={tmp_path}/rex"]
    code, said = typed(program, "base=folder", "base.resolution=32", "quant=w4", *words)
    assert (code, said.count("\n")) == (2, 1)
    assert "on the beach' would be lost; shorten" in said
    assert not list((tmp_path / "out").glob("store/*/*"))
