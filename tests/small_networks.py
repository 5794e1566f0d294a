"""Networks of true architecture with few random weights, in folders as transformers' save_pretrained writes them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    BitImageProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    Dinov2Config,
    Dinov2Model,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from experiments.random_base import clip_tokenizer

Write = Callable[[str], Path]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
MEAN = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """The folder of a small random dino, dinov2, clipseg or owlv2; nobody writes into it."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            WRITERS[name](made[name])
        return made[name]

    return write


def _dino(folder: Path) -> None:
    """With a pooler that DINO has no use for, as the published ViTs have."""
    ViTModel(ViTConfig(**VISION, initializer_range=0.5)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, resample=3, **MEAN).save_pretrained(folder)


def _dinov2(folder: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessor(**sizes, resample=3, do_center_crop=True, **MEAN).save_pretrained(folder)


def _clipseg(folder: Path) -> None:
    text = {**SMALL, "vocab_size": 49_408, "max_position_embeddings": 77}
    config = CLIPSegConfig(
        **{"text_config": text, "vision_config": {**VISION, "num_hidden_layers": 3}, "projection_dim": 16},
        **{
            "reduce_dim": 8,
            "extract_layers": [0, 1],
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
        },
    )
    network = CLIPSegForImageSegmentation(config)
    for parameter in network.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    pictures = ViTImageProcessor(size={"height": 32, "width": 32}, **MEAN)
    CLIPSegProcessor(pictures, clip_tokenizer()).save_pretrained(folder)


def _owlv2(folder: Path) -> None:
    text = {**SMALL, "vocab_size": 49_408, "max_position_embeddings": 16}
    config = Owlv2Config(text_config=text, vision_config=VISION, projection_dim=16)
    network = Owlv2ForObjectDetection(config)
    for parameter in network.box_head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    tokenizer = clip_tokenizer(pad_token="!")
    tokenizer.model_max_length = 16
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


WRITERS = {"dino": _dino, "dinov2": _dinov2, "clipseg": _clipseg, "owlv2": _owlv2}
