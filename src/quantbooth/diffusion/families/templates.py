"""Prompts in the template of a language model that reads them: its words, and the room that they leave."""

from collections.abc import Callable, Iterable
from typing import Any

from quantbooth.diffusion.prompt_length import require_room

__all__ = ["Template", "chat_template", "require_room_in"]

Template = Callable[[str], str]
"""A prompt -> the text that the language model reads."""


def chat_template(tokenizer: Any, thinking: bool) -> Template:
    """Return a turn of the user in the tokenizer's own chat template, before the answer."""

    def written(prompt: str) -> str:
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
        return str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **options))

    return written


def require_room_in(template: Template, tokenizer: Any, prompts: Iterable[str], length: int) -> None:
    """Check that prompts in their template have at most `length` tokens.

    Raises:
        UserError: for the first that has more, with the words that would be lost.
    """
    room = length - len(tokenizer(template("")).input_ids)
    for prompt in dict.fromkeys(prompts):
        require_room(prompt, tokenizer(prompt).input_ids, room, tokenizer.decode, "the text encoder")
