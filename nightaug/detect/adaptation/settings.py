"""Every constant of the vision-language night head, named, with its published value (METHODS section 2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nightaug.config import Settings

#: What the head is made of; each can be left out.
Part = Literal[
    "sampler", "alignment", "hallucination", "matching", "structure", "node_class", "node_domain", "pyramid_domain",
    "teacher", "statistics",
]  # fmt: skip
#: Those of the published method.
PARTS: tuple[Part, ...] = (
    "sampler", "alignment", "hallucination", "matching", "structure", "node_class", "node_domain", "pyramid_domain",
)  # fmt: skip
#: Those beyond the published method, which are not the head's.
EXTRA_PARTS: tuple[Part, ...] = ("teacher", "statistics")


class PartWeights(Settings):
    """Weights of the head's losses (published values)."""

    cluster: float = Field(1e-3, ge=0)
    alignment: float = Field(1e-3, ge=0)
    hallucination: float = Field(0.01, ge=0)
    matching: float = Field(0.1, ge=0)
    structure: float = Field(1.0, ge=0)
    node_class: float = Field(1.0, ge=0)
    node_domain: float = Field(0.1, ge=0)
    pyramid_domain: float = Field(1.0, ge=0)
    #: Beyond the published method: the detector's own losses on the target, with the mean teacher's boxes as labels.
    teacher: float = Field(1.0, ge=0)


class TeacherSettings(Settings):
    """The mean teacher (part ``teacher``), after Unbiased Teacher (Liu et al., ICLR 2021)."""

    #: Decay of the moving average that teaches. Slower than the one that is saved: a teacher that follows fast takes
    #: its own mistakes over from its student, surer each time.
    ema: float = Field(0.999, ge=0, lt=1)
    #: A box of at least this score is a label (balanced thresholds only go up from here).
    sure: float = Field(0.6, gt=0, lt=1)
    #: Boxes under this share of their threshold are background; between the two, neither object nor background.
    unsure: float = Field(0.5, ge=0, le=1)
    #: Learn where boxes are and how large, too, not only what they show.
    boxes: bool = False


class AdaptationSettings(Settings):
    """Settings of ``--adapt vlmcshfg``."""

    #: What is switched on.
    parts: tuple[Part, ...] = PARTS
    weights: PartWeights = PartWeights()
    #: A target region is a pseudo-labelled object over this score, background under that one.
    foreground: float = Field(0.5, gt=0, lt=1)
    background: float = Field(0.05, gt=0, lt=1)
    #: fixed: foreground for every class. balanced: each class' own threshold, at which the target shows this share of
    #: the objects an image of the source does, never under foreground_floor.
    thresholds: Literal["fixed", "balanced"] = "fixed"
    foreground_share: float = Field(0.5, gt=0, le=2)
    foreground_floor: float = Field(0.4, gt=0, lt=1)
    teacher: TeacherSettings = TeacherSettings()
    #: Most objects kept of a domain, and regions of background for each.
    nodes: PositiveInt = 200
    background_share: float = Field(0.1, ge=0, le=1)
    #: The source clusters with more objects than this.
    source_over: int = Field(200, ge=0)
    #: Width of a node.
    width: int = Field(256, ge=8)
    #: alignment: weight of pairs of different classes, and whether their cosine counts by its size.
    gamma: float = Field(0.5, ge=0)
    absolute: bool = False
    #: hallucination: update memory as the published code does; nodes a class needs.
    reference_memory: bool = False
    at_least: PositiveInt = 10
    #: matching: one assignment a node, or all of a class; rounds of Sinkhorn.
    matching: Literal["one-to-one", "many-to-many"] = "one-to-one"
    sinkhorn_rounds: PositiveInt = 20
    #: Scale of the reversed gradient.
    reversal: float = Field(0.02, ge=0)
    #: Steps over which all weights of the head rise from 0.
    warmup: int = Field(0, ge=0)
    #: Learning rate of the head, relative to the detector's.
    rate: float = Field(2.0, gt=0)
    #: Where CLIP's embeddings of labelled crops are kept; null: nightaug/regions in the user's cache folder.
    cache: str | None = None
    #: CLIP sees a crop and the same one grown by this; boxes with a side under so many pixels have no embedding.
    context: float = Field(1.5, ge=1)
    min_side: float = Field(4.0, ge=0)

    @property
    def learns(self) -> bool:
        """Whether a part adds a loss: without one the target's images are no part of a step."""
        return set(self.parts) != {"statistics"}

    @model_validator(mode="after")
    def _in_order(self) -> AdaptationSettings:
        # Balanced thresholds, too, begin at foreground.
        lowest = min(self.foreground, self.foreground_floor) if self.thresholds == "balanced" else self.foreground
        if self.background >= lowest:
            raise ValueError(f"background {self.background} must be under the threshold of objects, {lowest}")
        return self
