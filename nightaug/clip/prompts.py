"""Class names to text embeddings: several sentences a class, suited to street scenes by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nightaug.clip.encoder import Clip
from nightaug.data.classes import canonical_class
from nightaug.errors import ConfigError

#: Sentences that hold at any time of day; ``{}`` takes the name, "a" before it becomes "an" where it must.
TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a cropped photo of a {}.",
    "a blurry photo of a {}.",
    "a small {} far away.",
    "a {} on a street.",
    "a {} seen from a car.",
    "a {} partly hidden by another object.",
)
DAY_TEMPLATES: tuple[str, ...] = (
    "a photo of a {} by day.",
    "a {} on a street in daylight.",
)
NIGHT_TEMPLATES: tuple[str, ...] = (
    "a photo of a {} at night.",
    "a dark photo of a {}.",
    "a {} on a street at night, lit by headlights and street lamps.",
)
#: What the ensemble is made of unless a user gives his own.
ENSEMBLE: tuple[str, ...] = (*TEMPLATES, *DAY_TEMPLATES, *NIGHT_TEMPLATES)

#: The class of places that show no object, or less than half of one.
BACKGROUND = "background"
#: Words people use for a class, as CLIP has read them; a class that is not here goes by its own name.
WORDS: dict[str, tuple[str, ...]] = {
    BACKGROUND: ("background", "empty place", "road or building"),
    "bicycle": ("bicycle", "bike"),
    "bus": ("bus",),
    "car": ("car",),
    "motorcycle": ("motorcycle", "motorbike"),
    "pedestrian": ("pedestrian", "person"),
    "rider": ("rider", "person riding a bicycle", "person riding a motorcycle"),
    "traffic light": ("traffic light", "traffic signal"),
    "traffic sign": ("traffic sign", "road sign"),
    "train": ("train", "tram"),
    "truck": ("truck", "lorry"),
}


def fill_template(template: str, name: str) -> str:
    """The sentence for a name: ``("a photo of a {}.", "ambulance")`` to ``"a photo of an ambulance."``."""
    before, after = template.split("{}")
    if name[:1].lower() in "aeiou" and (before == "a " or before.endswith(" a ")):
        before = f"{before[:-1]}n "
    return before + name + after


class Prompts:
    """Text embeddings of classes, computed once a class and kept.

    Args:
        clip: whose text tower is asked.
        templates: sentences with one ``{}``; the default suits street scenes.
        words: class name -> the words for it (see :data:`WORDS`); what is not in it goes by its own name.

    Raises:
        ConfigError: no template, or one without exactly one ``{}``.
    """

    def __init__(
        self, clip: Clip, templates: Sequence[str] = ENSEMBLE, words: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        bad = [template for template in templates if template.count("{}") != 1]
        if bad or not templates:
            raise ConfigError(f"expected prompt templates with one {{}} each, got {bad[0]!r}" if bad else "no template")
        self.clip = clip
        self.templates = tuple(templates)
        self.words = {canonical_class(name): tuple(said) for name, said in (WORDS if words is None else words).items()}
        self._known: dict[str, Tensor] = {}

    def sentences(self, name: str) -> list[str]:
        """Every sentence about a class."""
        key = canonical_class(name)
        return [fill_template(template, word) for word in self.words.get(key) or (key,) for template in self.templates]

    def embed(self, classes: Sequence[str]) -> Tensor:
        """Mean of the sentences' unit embeddings, normalised again; other names of one class give one embedding.

        Args:
            classes: names, aliases allowed (``motor`` is ``motorcycle``).

        Returns:
            float32 (K, E) of unit length, on the CLIP's device.
        """
        keys = [canonical_class(name) for name in classes]
        missing = [key for key in dict.fromkeys(keys) if key not in self._known]
        groups = [self.sentences(key) for key in missing]
        embedded = self.clip.embed_text([sentence for group in groups for sentence in group])
        parts = torch.split(embedded, [len(group) for group in groups])
        for key, part in zip(missing, parts, strict=True):
            self._known[key] = functional.normalize(part.mean(dim=0), dim=0)
        if not keys:
            return torch.zeros(0, self.clip.width, device=self.clip.device)
        return torch.stack([self._known[key] for key in keys])
