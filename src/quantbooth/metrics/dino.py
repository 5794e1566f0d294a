"""DINO and DINOv2: pictures become features of what they show, learned without any text; folders of transformers."""

from pathlib import Path

import torch
from jaxtyping import Float
from PIL.Image import Resampling
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, Dinov2Model, ViTModel

from quantbooth.errors import UserError
from quantbooth.metrics.encoders import ImageEncoder, check_pictures, in_bytes
from quantbooth.metrics.folders import digest, model_type, read_network, read_processor

__all__ = ["DinoEncoder"]

KINDS = {"vit": ViTModel, "dinov2": Dinov2Model}
"""By the architecture that a folder names: DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023)."""
NO_POOLER = {"add_pooling_layer": False}


class DinoEncoder(ImageEncoder):
    """A published DINO or DINOv2 with the preprocessing that lies beside it: the class token after the last norm.

    Pictures are rounded to 8 bits first, so the figures are those of any other tool that reads the same saved pictures.

    Raises:
        UserError: the folder is not there, of another architecture, incomplete, or a pickle.
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
        """Bytes [b, 3, h, w] as the network was trained to see them."""
        done = self.processor(list(pictures.cpu()), return_tensors="pt", input_data_format="channels_first")
        return done["pixel_values"]
