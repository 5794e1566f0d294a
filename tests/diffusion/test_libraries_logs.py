"""Libraries log nothing of what is no mistake, or what is refused here in one line."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.pretrained import read_tokenizers
from quantbooth.diffusion.prompt_length import require_whole
from quantbooth.runtime.errors import UserError


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def logged(library: str) -> Iterator[list[str]]:
    """What a library logs inside the block, which begins with its usual level."""
    logger, listener = logging.getLogger(library), Listener()
    before = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(listener)
    try:
        yield listener.texts
    finally:
        logger.setLevel(before)
        logger.removeHandler(listener)


def test_a_key_that_diffusers_does_not_know(base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"a_later_key": 1}))
    with logged("diffusers") as texts:
        outline(folder, "toy")
    assert texts == []


def test_a_prompt_that_is_refused_for_its_length(base_folder: Path) -> None:
    (tokenizer,) = read_tokenizers(base_folder)
    fresh = type(tokenizer).from_pretrained(str(base_folder / "tokenizer"))  # each warns once
    with logged("transformers") as texts, pytest.raises(UserError, match="would be lost"):
        require_whole([fresh], ["mug " * 100])
    assert texts == []
