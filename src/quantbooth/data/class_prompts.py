"""Prompts of a class for any text-to-image model, for the class pictures of prior preservation.

Written for this project; none is an evaluation prompt of DreamBooth.
"""

from itertools import product

from quantbooth.runtime.errors import UserError

__all__ = ["general_class_prompts"]

PLACES = (
    *("in a garden", "in a kitchen", "on a sofa", "by a lake", "under a tree", "in an old library", "on a balcony"),
    *("in a desert", "on a train", "in a market", "near a waterfall", "on a bridge", "in a museum", "on a stone wall"),
    *("in a meadow of wild flowers", "in front of a bookshelf"),
)
LOOKS = (
    "a {}",
    "a small {}",
    "an old {}",
    "a green {}",
    "an orange {}",
    "a striped {}",
    "a dusty {}",
    "a shiny wooden {}",
)
STYLES = (
    *(
        "a photo of {}",
        "a close-up photo of {}",
        "a blurry photo of {}",
        "an oil painting of {}",
        "a pencil sketch of {}",
    ),
    *("a black and white photo of {}", "{} at dusk", "{} in bright light"),
)

STRIDE = 37
"""Coprime to the number of all, so that consecutive prompts differ in everything and none comes twice."""


def general_class_prompts(count: int) -> tuple[str, ...]:
    """Return `count` different prompts with {} for the word of the class, spread evenly over looks, styles and places.

    Raises:
        UserError: for more than there are.
    """
    looks_and_styles = [style.replace("{}", look) for look, style in product(LOOKS, STYLES)]
    every = [f"{text} {place}" for text, place in product(looks_and_styles, PLACES)]
    if count > len(every):
        raise UserError(f"base.class_prompts.count must be at most {len(every)}, got {count}")
    return tuple(every[number * STRIDE % len(every)] for number in range(count))
