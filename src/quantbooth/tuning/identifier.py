"""A trainable identifier: separate, trainable embeddings for its tokens in an otherwise frozen text encoder.

Textual Inversion (Gal et al., ICLR 2023, arXiv 2208.01618) trains one such embedding and nothing else.
"""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.runtime.errors import UserError

__all__ = ["LearnedRows", "added_tokens", "attach_rows_", "learned_rows"]


class LearnedRows(nn.Module):
    """A frozen token embedding with trainable rows for some tokens, initialized to the frozen rows."""

    def __init__(self, embedding: nn.Embedding, tokens: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding = embedding
        self.register_buffer("tokens", torch.tensor(tokens, device=embedding.weight.device), persistent=False)
        self.rows = nn.Parameter(embedding.weight.detach()[list(tokens)].float())

    def forward(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Return the embedding of every token."""
        is_learned = torch.eq(ids[..., None], self.get_buffer("tokens"))
        frozen = self.embedding(ids)
        learned = F.embedding(is_learned.int().argmax(-1), self.rows).to(frozen.dtype)
        return torch.where(is_learned.any(-1, keepdim=True), learned, frozen)


def added_tokens(tokenizer: Any, sentence: str, without: str) -> tuple[int, ...]:
    """Return the distinct tokens that the identifier adds to the class prompt, in order.

    Raises:
        UserError: when it adds none, or one that the class prompt has too, whose meaning would change with it.
    """
    ids, others = (tokenizer(text).input_ids for text in (sentence, without))
    added = tuple(Counter(ids) - Counter(others))
    if not added:
        raise UserError(f"the identifier must add a token to {without!r}, but {sentence!r} adds none")
    if shared := [token for token in added if token in others]:
        spelled = ", ".join(repr(word) for word in tokenizer.convert_ids_to_tokens(shared))
        raise UserError(
            f"a learned identifier must be made of tokens that {without!r} does not have, got {spelled} in "
            f"{sentence!r}; choose another base.identifier"
        )
    return added


def attach_rows_(base: Base, tokens: tuple[int, ...]) -> LearnedRows:
    """Attach trainable rows for tokens to a base's text encoder; its output does not change.

    Raises:
        UserError: for a base with two text encoders, which would need a row each.
        RuntimeError: when it has such rows already.
    """
    if (count := len(base.encoders)) > 1:
        raise UserError(
            f"tuner.identifier=true needs a base with one text encoder, {base.name} has {count}; leave it out"
        )
    embedding = base.text_encoder.get_input_embeddings()
    if isinstance(embedding, LearnedRows):
        raise RuntimeError("rows that learn must be attached once, got some already")
    rows = LearnedRows(embedding, tokens)
    base.text_encoder.set_input_embeddings(rows)
    return rows


def learned_rows(base: Base) -> LearnedRows:
    """Return the attached rows of a base's text encoder.

    Raises:
        RuntimeError: when there are none.
    """
    embedding = base.text_encoder.get_input_embeddings()
    if not isinstance(embedding, LearnedRows):
        raise RuntimeError("a base with a learned identifier must have rows: call attach_rows_ first")
    return embedding
