"""CLIPSeg as a locator: the pixels that a network of transformers takes for an object of the class word."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from quantbooth.errors import UserError
from quantbooth.metrics.encoders import check_pictures, in_bytes
from quantbooth.metrics.folders import digest, read_network, read_processor
from quantbooth.metrics.locators import Boxes, Locator, boxes_of_likelihoods

__all__ = ["ClipSegLocator"]


class ClipSegLocator(Locator):
    """Marks what the class word describes (Lüddecke & Ecker 2022), its likelihood brought to the picture's size.

    Args:
        folder: a network and its processor as transformers' save_pretrained wrote them.
        threshold: likelihood above which a pixel is the subject's.
        least: share of the picture that a subject covers; less of it counts as not found.

    Raises:
        UserError: the folder is not there, of another architecture, incomplete, or a pickle; a number is out of range.
    """

    tells_pixels = True

    def __init__(self, folder: str | Path, threshold: float = 0.4, least: float = 0.005) -> None:
        super().__init__()
        place = Path(folder)
        for option, value in (("threshold", threshold), ("least", least)):
            if not 0 < value < 1:
                raise UserError(f"locator.{option} must be in (0, 1), got {value}")
        self.model = read_network(CLIPSegForImageSegmentation, place)
        self.processor = read_processor(CLIPSegProcessor, place)
        self.threshold, self.least = threshold, least
        self._name = f"clipseg sha256:{digest(place)}, above {threshold:g}, at least {least:.1%}"

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def likelihoods(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Float[Tensor, "b h w"]:
        """How likely each pixel shows what the word says, in [0, 1]."""
        check_pictures(pictures)
        shown = list(in_bytes(pictures).cpu())
        given = self.processor(text=[class_word] * len(shown), images=shown, padding=True, return_tensors="pt")
        logits = self.model(**given.to(next(self.model.parameters()).device)).logits
        likelihood = logits.reshape(len(shown), 1, *logits.shape[-2:]).float().sigmoid()
        return interpolate(likelihood, size=pictures.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        found = self.likelihoods(pictures, class_word).to(pictures.device)
        return boxes_of_likelihoods(found, self.threshold, self.least)
