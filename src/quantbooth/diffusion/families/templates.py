"""Prompts in the template of a language model that reads them: its words, the room they leave, and hidden states."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from quantbooth.diffusion.model import TextEncoder
from quantbooth.diffusion.prompt_length import require_room

__all__ = ["Template", "chat_template", "hidden_states", "require_room_in"]

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


def hidden_states(
    encoder: TextEncoder, texts: Sequence[str], layer: int, dropped: int, length: int, **options: Any
) -> tuple[Float[Tensor, "b length d"], Bool[Tensor, "b length"]]:
    """Return a layer's hidden states of texts, zeros after them, and which are states.

    Args:
        encoder: a language model, which reads from left to right, so that padding on the right changes nothing.
        texts: in their template.
        layer: its number among `hidden_states`.
        dropped: the number of tokens at the beginning whose states are left out.
        length: of the result, at least that of the longest.
        options: of the network's call.
    """
    read = encoder.tokenizer([*texts], padding=True, padding_side="right", return_tensors="pt")
    ids, mask = (read[name].to(encoder.network.device) for name in ("input_ids", "attention_mask"))
    made = encoder.network(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, **options)
    kept = mask[:, dropped:].bool()
    states = (made.hidden_states[layer][:, dropped:] * kept[..., None]).float()
    more = length - kept.shape[1]
    return pad(states, (0, 0, 0, more)), pad(kept, (0, more))
