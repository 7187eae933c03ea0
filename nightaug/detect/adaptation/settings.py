"""Every constant of the vision-language night head, named, with its published value (METHODS section 2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from nightaug.config import Settings

#: What the head is made of; each can be left out.
Part = Literal[
    "sampler", "alignment", "hallucination", "matching", "structure", "node_class", "node_domain", "pyramid_domain"
]
PARTS: tuple[Part, ...] = (
    "sampler", "alignment", "hallucination", "matching", "structure", "node_class", "node_domain", "pyramid_domain",
)  # fmt: skip


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


class AdaptationSettings(Settings):
    """Settings of ``--adapt vlmcshfg``."""

    #: What is switched on.
    parts: tuple[Part, ...] = PARTS
    weights: PartWeights = PartWeights()
    #: A target region is a pseudo-labelled object over this score, background under that one.
    foreground: float = Field(0.5, gt=0, lt=1)
    background: float = Field(0.05, gt=0, lt=1)
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
