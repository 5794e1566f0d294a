"""quantbooth: personalize a quantized text-to-image model by training nothing but its quantization scales."""

from importlib import import_module
from typing import Any

__all__ = ["initial_noise", "load_pipeline"]


def __getattr__(name: str) -> Any:
    """The library's two calls, imported when first asked for: commands do not wait for what they do not need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("quantbooth.run.load"), name)
