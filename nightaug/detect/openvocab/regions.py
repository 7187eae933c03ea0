"""What the methods need of an embedding store: proposals of images with CLIP's embeddings of their crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: Text embeddings of class names: names to float32 (K, E) of unit length (``Prompts.embed``).
Embed = Callable[[Sequence[str]], Tensor]


class ScannedImage(NamedTuple):
    """One image of a store.

    ``path`` of the image file; ``boxes`` float32 (Q, 4) xyxy in pixels of the original; ``scores`` (Q,) objectness in
    [0, 1]; ``clip`` float16 (Q, E), unit length, or zero where a crop was too small to be embedded.
    """

    path: Path
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    clip: NDArray[np.float16]


class RegionStore(Protocol):
    """An embedding store as the methods see it.

    ``width`` is E; ``facts`` say what it was made of: ``clip_sha``, ``images_sha``, ``proposals_sha``, where known.
    """

    width: int
    facts: dict[str, Any]

    def regions(self, path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Boxes (Q, 4) in pixels of the original, and embeddings (Q, E), of one image."""
        ...

    def scan(self) -> Iterator[tuple[Path, NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]]:
        """Every image, as the fields of :class:`ScannedImage`; one without proposals has zero rows."""
        ...
