"""A trainable identifier: its tokens, its effect on its own prompts only, and that nothing else is trained."""

from copy import deepcopy

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.identifier import added_tokens, attach_rows_, learned_rows

SENTENCE, WITHOUT = "a photo of a sks mug", "a photo of a mug"


@pytest.fixture
def fresh(base: Base) -> Base:
    """A base whose text encoder may be changed."""
    return base.with_text_encoder(deepcopy(base.text_encoder))


def test_tokens_are_those_that_the_identifier_adds(base: Base) -> None:
    def spelled(sentence: str, without: str = WITHOUT) -> list[str]:
        words: list[str] = base.tokenizer.convert_ids_to_tokens(list(added_tokens(base.tokenizer, sentence, without)))
        return words

    assert spelled(SENTENCE) == ["sks</w>"]
    assert spelled("a photo of a zx mug") == ["z", "x</w>"]
    assert spelled("a photo of a zz mug") == ["z", "z</w>"]
    assert spelled("a photo of a sks sks mug") == ["sks</w>"]


def test_an_identifier_that_is_none_or_another_word_too_is_refused(base: Base) -> None:
    with pytest.raises(
        UserError, match="^the identifier must add a token to 'a photo of a mug', but 'a photo of a mug'"
    ):
        added_tokens(base.tokenizer, WITHOUT, WITHOUT)
    expected = (
        r"^a learned identifier must be made of tokens that 'a photo of a mug' does not have, got 'of</w>' in "
        r"'a photo of a of mug'; choose another base.identifier$"
    )
    with pytest.raises(UserError, match=expected):
        added_tokens(base.tokenizer, "a photo of a of mug", WITHOUT)


def test_as_attached_every_sentence_is_encoded_as_before_bit_for_bit(base: Base, fresh: Base) -> None:
    texts = [SENTENCE, WITHOUT, "", "a zx duck on the beach"]
    attach_rows_(fresh, added_tokens(base.tokenizer, "a photo of a zx sks mug", WITHOUT))
    with torch.no_grad():
        assert torch.equal(fresh.encode_prompts(texts).tokens, base.encode_prompts(texts).tokens)


def test_sentences_without_the_identifier_never_change_those_with_it_do(base: Base, fresh: Base) -> None:
    """As if the rows stood in the embedding itself."""
    tokens = added_tokens(base.tokenizer, "a photo of a zx mug", WITHOUT)
    other = base.with_text_encoder(deepcopy(base.text_encoder))
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attach_rows_(fresh, tokens).rows.copy_(rows)
        other.text_encoder.get_input_embeddings().weight[list(tokens)] = rows
        texts = ["a photo of a zx mug", "a zx x", WITHOUT, ""]
        before, after, expected = (made.encode_prompts(texts).tokens for made in (base, fresh, other))
    assert torch.equal(after, expected)
    assert [torch.equal(before[i], after[i]) for i in range(4)] == [False, False, True, True]


def test_only_the_rows_get_a_gradient_and_it_is_that_of_the_embedding(base: Base, fresh: Base) -> None:
    tokens = added_tokens(base.tokenizer, "a photo of a zx mug", WITHOUT)
    rows = attach_rows_(fresh, tokens).rows
    assert [parameter for parameter in fresh.text_encoder.parameters() if parameter.requires_grad] == [rows]
    other = deepcopy(base.text_encoder)
    weight = other.get_input_embeddings().weight.requires_grad_()
    for made in (fresh, base.with_text_encoder(other)):
        made.encode_prompts(["a photo of a zx mug", "z"]).tokens.square().sum().backward()
    assert rows.grad is not None
    assert (rows.grad != 0).any(dim=1).all()
    torch.testing.assert_close(rows.grad, weight.grad[list(tokens)])


def test_rows_are_attached_once_and_before_they_are_asked_for(fresh: Base) -> None:
    with pytest.raises(RuntimeError, match="call attach_rows_ first"):
        learned_rows(fresh)
    module = attach_rows_(fresh, (3,))
    assert learned_rows(fresh) is module
    with pytest.raises(RuntimeError, match="attached once"):
        attach_rows_(fresh, (3,))
