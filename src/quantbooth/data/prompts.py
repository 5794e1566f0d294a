"""DreamBooth's 25 evaluation prompts for objects and 25 for live subjects.

Source: Ruiz et al. 2023; github.com/google/dreambooth, CC-BY 4.0.
"""

from quantbooth.data.subjects import Prompt

__all__ = ["prompts_for"]

SHARED_SCENES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
OBJECT_SCENES = (
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
)
LIVE_OUTFITS = (
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
)
PROPERTIES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")


def prompts_for(live: bool) -> tuple[Prompt, ...]:
    """The list for live subjects or the one for objects."""
    middle, kind = (LIVE_OUTFITS, "accessory") if live else (OBJECT_SCENES, "context")
    return (
        *(Prompt(text, "context") for text in SHARED_SCENES),
        *(Prompt(text, kind) for text in middle),
        *(Prompt(text, "property") for text in PROPERTIES),
    )
