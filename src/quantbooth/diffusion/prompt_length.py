"""A prompt is read whole or refused: tokenizers cut what is too long, and replace what they lack, and say nothing."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from quantbooth.runtime.errors import UserError

__all__ = ["require_room", "require_whole"]


def require_whole(
    tokenizers: Sequence[Any], prompts: Iterable[str], lengths: Sequence[int | None] | None = None
) -> None:
    """Check that every tokenizer of a base reads every prompt whole.

    Args:
        tokenizers: of the base.
        prompts: any number of times.
        lengths: the tokens that each text encoder reads; None is its tokenizer's `model_max_length`.

    Raises:
        UserError: for the first prompt that is longer, with the words that would be lost, or has letters that the
            vocabulary lacks.
    """
    texts = list(dict.fromkeys(prompts))
    for tokenizer, length in zip(tokenizers, lengths or [None] * len(tokenizers), strict=True):
        room = (length or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
        for prompt in texts:
            tokens = tokenizer.encode(prompt, add_special_tokens=False, verbose=False)
            if tokenizer.unk_token_id in tokens:
                raise UserError(
                    f"the tokenizer {tokenizer.name_or_path} lacks letters of {prompt!r}, or takes them for its "
                    f"{tokenizer.unk_token}; write others, or take another copy of its vocabulary"
                )
            require_room(prompt, tokens, room, tokenizer.decode, "the text encoder")


def require_room(
    prompt: str, tokens: Sequence[int], room: int, decode: Callable[[Sequence[int]], str], reader: str
) -> None:
    """Check that a prompt has at most `room` tokens.

    Raises:
        UserError: when it has more, with the words that would be lost.
    """
    if len(tokens) > room:
        lost = decode(tokens[room:]).strip()
        raise UserError(
            f"the prompt has {len(tokens)} tokens, {reader} reads {room}, so {lost!r} would be lost; shorten {prompt!r}"
        )
