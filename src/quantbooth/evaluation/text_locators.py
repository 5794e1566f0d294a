"""Locators that search for the class word with networks of transformers: CLIPSeg finds pixels, OWLv2 a box."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, Owlv2ForObjectDetection, Owlv2Processor

from quantbooth.evaluation.encoders import check_pictures, in_bytes
from quantbooth.evaluation.folders import digest, read_network, read_processor
from quantbooth.evaluation.locators import Boxes, Locator, boxes_of_candidates, boxes_of_likelihoods
from quantbooth.runtime.errors import UserError

__all__ = ["ClipSegLocator", "Owlv2Locator"]


class ClipSegLocator(Locator):
    """Segments the class word (Lüddecke & Ecker 2022); its likelihood is resized to the picture.

    Args:
        folder: a network and its processor, from transformers' `save_pretrained`.
        threshold: likelihood above which a pixel belongs to the subject.
        least: smallest share of the picture that a subject covers; less counts as not found.

    Raises:
        UserError: when the folder is missing, incomplete, of another architecture, or a pickle.
    """

    tells_pixels = True

    def __init__(self, folder: str | Path, threshold: float = 0.4, least: float = 0.005) -> None:
        super().__init__()
        place = Path(folder)
        self.model = read_network(CLIPSegForImageSegmentation, place)
        self.processor = read_processor(CLIPSegProcessor, place)
        self.threshold, self.least = threshold, least
        self._name = f"clipseg sha256:{digest(place)}, above {threshold:.15g}, at least {100 * least:.15g}%"

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def likelihoods(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Float[Tensor, "b h w"]:
        """Return the likelihood of the class word at each pixel, in [0, 1]."""
        check_pictures(pictures)
        shown = list(in_bytes(pictures).cpu())
        given = self.processor(text=[class_word] * len(shown), images=shown, padding=True, return_tensors="pt")
        logits = self.model(**given.to(next(self.model.parameters()).device)).logits
        likelihood = logits.reshape(len(shown), 1, *logits.shape[-2:]).float().sigmoid()
        return interpolate(likelihood, size=pictures.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        found = self.likelihoods(pictures, class_word).to(pictures.device)
        return boxes_of_likelihoods(found, self.threshold, self.least)


class Owlv2Locator(Locator):
    """Finds the best box for "a photo of a <class word>" (Minderer et al. 2023); it has no masks.

    Args:
        folder: a network and its processor, from transformers' `save_pretrained`.
        threshold: a best score below it counts as not found.

    Raises:
        UserError: when the folder is missing, incomplete, of another architecture, or a pickle; for a class word that
            is too long (when called).
    """

    def __init__(self, folder: str | Path, threshold: float = 0.2) -> None:
        super().__init__()
        place = Path(folder)
        self.model = read_network(Owlv2ForObjectDetection, place)
        self.processor = read_processor(Owlv2Processor, place)
        self.threshold = threshold
        self._name = f"owlv2 sha256:{digest(place)}, from {threshold:.15g}"

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def boxes(self, pictures: Float[Tensor, "b 3 h w"], class_word: str) -> Boxes:
        check_pictures(pictures)
        height, width = pictures.shape[2:]
        query, shown = f"a photo of a {class_word}", list(in_bytes(pictures).cpu())
        given = self.processor(text=[[query]] * len(shown), images=shown, return_tensors="pt")
        room = self.model.config.text_config.max_position_embeddings
        if (length := given["input_ids"].shape[1]) > room:
            raise UserError(f"the locator reads {room} tokens, {query!r} has {length}; choose another locator")
        found = self.model(**given.to(next(self.model.parameters()).device))
        corners = _corners(found.pred_boxes.float()) * max(height, width)  # of the picture padded to a square
        scores = found.logits[..., 0].float().sigmoid()
        device = pictures.device
        return boxes_of_candidates(scores.to(device), corners.to(device), height, width, self.threshold)


def _corners(boxes: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n 4"]:
    """Convert centre and size to left, top, right, bottom."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
