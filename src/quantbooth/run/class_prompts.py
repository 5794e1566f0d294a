"""The prompts of a subject's class pictures: the class prompt, given ones, or those of the base."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from quantbooth.data.prompts import as_read
from quantbooth.data.questions import require_distinct
from quantbooth.data.subjects import Subject
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError

__all__ = ["class_prompts_of", "prompted"]


def class_prompts_of(cfg: DictConfig, subject: Subject) -> tuple[str, ...]:
    """Return the class prompts of a subject: of a base's list as many as there are pictures, none of the evaluation.

    Raises:
        UserError: for a given prompt without {}, given twice, or one that the subject is evaluated on; for more prompts
            than pictures.
    """
    given, pictures = cfg.prior.class_prompts, cfg.prior.num_class_images
    if given is None:
        return (subject.class_text,)
    own = {_read(prompt.template, subject) for prompt in subject.prompts}
    if isinstance(given, DictConfig):
        made = [template for template in build(given, tuple) if _read(template, subject) not in own]
        texts = tuple(dict.fromkeys(template.replace("{}", subject.class_word) for template in made))
        return texts[:pictures] if pictures else texts
    for template in given:
        if template.count("{}") != 1:
            raise UserError(f"each of prior.class_prompts must hold {{}} once, where the class goes, got {template!r}")
        if _read(template, subject) in own:
            raise UserError(f"prior.class_prompts must not hold prompts of the evaluation, got {template!r}")
    if 0 < pictures < len(given):
        raise UserError(
            f"prior.num_class_images={pictures} leaves some of {len(given)} prior.class_prompts without one"
        )
    texts = tuple(template.replace("{}", subject.class_word) for template in given)
    require_distinct(texts, "prior.class_prompts")
    return texts


def _read(template: str, subject: Subject) -> str:
    return as_read(template.replace("{}", subject.class_word))


def prompted(settings: Mapping[str, Any], class_prompts: Sequence[str]) -> dict[str, Any]:
    """Return the class prompts as part of an identity; nothing where no prompts are given, or no class rows are."""
    prior = settings["prior"]
    given = prior["class_batch_size"] and prior["class_prompts"] is not None
    return {"class_prompts": list(class_prompts)} if given else {}
