"""nightaug: labelled day driving images in, labelled night images out, and detectors that see at night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nightaug.translate.translators import Translator

__all__ = ["Translator", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package must not import torch.
    if name == "Translator":
        from nightaug.translate.translators import Translator

        return Translator
    raise AttributeError(f"module 'nightaug' has no attribute {name!r}")
