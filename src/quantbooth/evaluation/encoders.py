"""Encoders: map pictures and texts to unit-length features, whose cosine is a similarity.

CLIP has one space for pictures and texts. DINO and DINOv2, from folders of transformers, map pictures only and were
trained without text.
"""

import hashlib
import re
import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, Dinov2Model, ViTModel

from quantbooth.diffusion.hub import from_cache_if_silent
from quantbooth.diffusion.prompt_length import require_room
from quantbooth.diffusion.weights import require_finite
from quantbooth.evaluation.folders import digest, model_type, read_network, read_processor
from quantbooth.runtime.errors import UserError

__all__ = [
    "FOLDER",
    "DinoEncoder",
    "Encoder",
    "ImageEncoder",
    "OpenClipEncoder",
    "check_pictures",
    "empty_clip",
    "in_bytes",
]

FOLDER = "local-dir:"
"""How open_clip marks a model in a folder."""
PICKLES = ("*.bin", "*.pt", "*.pth")


class ImageEncoder(nn.Module, ABC):
    """Maps pictures to unit-length features, whose inner product is the cosine similarity."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Model, weights and preprocessing; scores of encoders with different names are never compared."""

    @abstractmethod
    def images(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return unit-length features of pictures with values in [0, 1]."""


class Encoder(ImageEncoder, ABC):
    """Maps pictures and texts into one space."""

    @abstractmethod
    def texts(self, sentences: list[str]) -> Float[Tensor, "b d"]:
        """Return unit-length features of texts, or raise UserError for one that it does not read whole."""


def check_pictures(pictures: Tensor) -> None:
    """Check for float pictures [b, 3, h, w] with values in [0, 1].

    Raises:
        ValueError: for another shape, dtype or range (a cosine would hide all three).
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ValueError(f"pictures must be float [b, 3, h, w], got {pictures.dtype} {tuple(pictures.shape)}")
    if pictures.numel() and not (pictures.amin() >= 0 and pictures.amax() <= 1):
        low, high = pictures.amin().item(), pictures.amax().item()
        raise ValueError(f"pictures must have values in [0, 1], got [{low:.4g}, {high:.4g}]")


def in_bytes(pictures: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return pictures as 8-bit integers, as they are saved."""
    return (pictures * 255).round().byte()


# Not torchmetrics' CLIPScore: 1.9 fails with transformers 5, and it has a running mean instead of a score per image.
class OpenClipEncoder(Encoder):
    """A published CLIP, loaded by open_clip, with the preprocessing of its training.

    `model` is an open_clip model name or `local-dir:FOLDER`; `pretrained` is a published tag or a weight file, and is
    not read for a folder, which has weights of its own. Pictures are rounded to 8 bits and preprocessed by open_clip's
    inference transform, so scores equal those of other tools that read the saved pictures.

    Raises:
        UserError: when weights are not available, do not fit the model or are not finite, or were trained with another
            activation (QuickGELU) than the model's; when a folder has pickles, which may run code.
    """

    def __init__(self, model: str, pretrained: str | None = None) -> None:
        super().__init__()
        import open_clip  # noqa: PLC0415  # optional: the extra [clip]

        folder = Path(model.removeprefix(FOLDER)) if model.startswith(FOLDER) else None
        if folder is not None:
            _require_safetensors(folder, pretrained)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*QuickGELU mismatch.*")
            with nullcontext() if folder else from_cache_if_silent() as silent:
                try:
                    self.model, self.transform = open_clip.create_model_from_pretrained(model, pretrained or None)
                    self.tokenizer = open_clip.get_tokenizer(model)
                except (RuntimeError, OSError, ValueError, UserWarning) as error:
                    raise UserError(_refusal(model, pretrained, error, silent)) from error
        require_finite(self.model.state_dict(), f"scorer {model} with weights {pretrained}")
        self.requires_grad_(False).eval()
        source = f"{model} {_weights(pretrained)}" if folder is None else f"{FOLDER}sha256:{digest(folder)} "
        self._name = f"open_clip {source}{_preprocessing(self.model)}"

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def images(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        check_pictures(pictures)
        bytes_last = in_bytes(pictures).permute(0, 2, 3, 1).cpu().numpy()
        batch = torch.stack([self.transform(Image.fromarray(picture)) for picture in bytes_last])
        return self.model.encode_image(batch.to(self._device), normalize=True).float()

    @torch.inference_mode()
    def texts(self, sentences: list[str]) -> Float[Tensor, "b d"]:
        for sentence in sentences:
            self._require_whole(sentence)
        return self.model.encode_text(self.tokenizer(sentences).to(self._device), normalize=True).float()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _require_whole(self, sentence: str) -> None:
        """Refuse a long prompt, which open_clip would truncate silently."""
        ours = self.tokenizer
        inner = getattr(ours, "tokenizer", None)  # of transformers, for SigLIP and others
        added = 2 if inner is None else inner.num_special_tokens_to_add()
        added = 3 if getattr(ours, "tokenizer_mode", "") == "clips" else added
        clean = getattr(ours, "clean_fn", str)(sentence)
        tokens = ours.encode(clean) if inner is None else inner.encode(clean, add_special_tokens=False)
        require_room(sentence, tokens, ours.context_length - added, (inner or ours).decode, "the scorer")


def empty_clip(model: str) -> tuple[Any, int]:
    """Return a CLIP of open_clip without weights, on the meta device, and the side of the pictures that it reads.

    Raises:
        UserError: for a name that open_clip does not have.
    """
    import open_clip  # noqa: PLC0415  # optional: the extra [clip]

    if model not in open_clip.list_models():
        raise UserError(f"scorer.encoder.model must be a model of open_clip, got {model!r}")
    with torch.device("meta"):
        network = open_clip.create_model(model, pretrained=None, device="meta")
    return network.requires_grad_(False).eval(), int(network.visual.image_size[0])


def _refusal(model: str, pretrained: str | None, error: BaseException, silent: str | None) -> str:
    """Return one line: the requested model, why it cannot be loaded, and what to do."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]  # torch lists what does not fit below
    if "QuickGELU mismatch" in first:
        return f"scorer {model} has another activation than its weights {pretrained}; take {_twin(model)} instead"
    if silent and re.search("download|Hub", first):
        first = f"they are not in the cache of the hub, and {silent}"
    return f"scorer {model} with weights {pretrained} cannot be loaded ({first}); name a published tag or a local file"


def _require_safetensors(folder: Path, pretrained: str | None) -> None:
    """Refuse a folder from which open_clip could choose a pickle, and a weight file beside it."""
    if pickles := sorted(file.name for kind in PICKLES for file in folder.glob(kind)):
        raise UserError(
            f"scorer {FOLDER}{folder} has {pickles[0]}; pickles may run code and are not read: save its weights as "
            "open_clip_model.safetensors and remove it"
        )
    if pretrained and Path(pretrained).is_file():
        raise UserError(
            f"scorer.encoder.pretrained={pretrained} would not be read: scorer.encoder.model={FOLDER}{folder} has "
            "weights of its own; leave out one of them"
        )


def _twin(model: str) -> str:
    """Return the same open_clip model with the other activation."""
    return model.removesuffix("-quickgelu") if model.endswith("-quickgelu") else f"{model}-quickgelu"


def _weights(pretrained: str | None) -> str:
    """Return a published tag, or the digest of a local file, so that a record means the same everywhere."""
    if pretrained and Path(pretrained).is_file():
        with open(pretrained, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]} "
    return f"{pretrained} " if pretrained else ""


def _preprocessing(model: Any) -> str:
    """Return size, filter and activation, which change scores without changing weights."""
    size, filter_name = model.visual.preprocess_cfg["size"], model.visual.preprocess_cfg["interpolation"]
    activations = {type(module).__name__ for module in model.modules()} & {"QuickGELU", "GELU"}
    return f"{size}px {filter_name} {'+'.join(sorted(activations))}"


KINDS = {"vit": ViTModel, "dinov2": Dinov2Model}
"""Architecture in a folder -> class: DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023)."""
NO_POOLER = {"add_pooling_layer": False}


class DinoEncoder(ImageEncoder):
    """A published DINO or DINOv2 with its preprocessing; the feature is the class token after the last norm.

    Pictures are rounded to 8 bits first, so scores equal those of other tools that read the saved pictures.

    Raises:
        UserError: when the folder is missing, incomplete, of another architecture, or a pickle.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        place = Path(folder)
        kind = model_type(place)
        if kind not in KINDS:
            raise UserError(f"{place} must hold a DINO (vit) or a DINOv2 (dinov2), found a {kind}")
        options = NO_POOLER if kind == "vit" else {}
        self.model = read_network(KINDS[kind], place, spare="pooler.", **options)
        self.processor = read_processor(AutoImageProcessor, place)
        side = self._prepared(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[-1]
        smooth = Resampling(int(self.processor.resample)).name.lower()
        self._name = f"{'dino' if kind == 'vit' else kind} sha256:{digest(place)} {side}px {smooth}"

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def images(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        check_pictures(pictures)
        device = next(self.model.parameters()).device
        found = self.model(pixel_values=self._prepared(in_bytes(pictures)).to(device))
        return normalize(found.last_hidden_state[:, 0].float(), dim=1)

    def _prepared(self, pictures: Tensor) -> Tensor:
        """Preprocess bytes [b, 3, h, w] as in training."""
        done = self.processor(list(pictures.cpu()), return_tensors="pt", input_data_format="channels_first")
        return done["pixel_values"]
