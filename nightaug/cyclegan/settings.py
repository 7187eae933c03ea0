"""Every constant of CycleGAN training, named, with its unit, range and published value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from nightaug.config import Settings
from nightaug.cyclegan.networks import SIZE_MULTIPLE, Upsampling, feature_layers, middle_block
from nightaug.data.classes import Direction


class LossWeights(Settings):
    """Weights of the generator's losses (published: 1, 10, 5)."""

    adversarial: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    identity: float = Field(5.0, ge=0)
    #: Of the patch-contrastive terms, where ``objective`` has them (published: 1).
    nce: float = Field(1.0, ge=0)


class ContrastSettings(Settings):
    """Constants of the patch-contrastive objective (CUT, Park et al., ECCV 2020)."""

    #: Modules of the generator whose outputs are compared; null: the input, both stride-2 convs, the first and the
    #: middle residual block, as published.
    layers: tuple[int, ...] | None = None
    #: Places a layer and image.
    places: PositiveInt = 256
    #: Width of the projections.
    width: PositiveInt = 256
    temperature: float = Field(0.07, gt=0)
    #: Also compare night images with what the generator makes of them: they should stay as they are.
    identity: bool = True


class FaithfulWeights(Settings):
    """Weights of the label-aware losses; 0 leaves one out, all 0 (the default) is plain training."""

    #: Of the segmenting head on the night discriminator; without it there is no head.
    segmentation: float = Field(0.0, ge=0)
    #: L_hl (published: 0.2): objects the head sees outside every box of a translated image. Needs the head.
    hallucination_outside: float = Field(0.0, ge=0)
    #: L_supp (published: 1): places outside boxes that look like an object are pulled to the source. Needs the head.
    suppression: float = Field(0.0, ge=0)
    #: Features of the frozen ``judge`` inside boxes, before and after translation.
    object: float = Field(0.0, ge=0)


class FaithfulSettings(Settings):
    """Label-aware training (Li, Tan and Tan, AAAI 2026; section by section in docs/train-translator.md)."""

    #: Where boxes of night images come from: ``real`` (the dataset's own labels), ``none``, or a label file or folder
    #: of pseudo boxes, such as the folder of ``nightaug predict``.
    night_boxes: str = "none"
    #: Pseudo boxes of a lower score are no objects.
    min_score: float = Field(0.5, ge=0, le=1)
    #: Pseudo boxes from this score up to ``min_score`` are no background either: the head learns nothing there.
    unsure_score: float = Field(0.05, ge=0, le=1)
    weights: FaithfulWeights = FaithfulWeights()

    #: What of a night box is object: all of it, or the ellipse in it, its corners being neither object nor background.
    masks: Literal["box", "ellipse"] = "box"
    #: Channels of the segmenting decoder's finest level.
    head_width: PositiveInt = 32
    #: A pixel of a class counts (pixels of the class) ** -balance times: 0 counts all alike, 1 all classes alike.
    balance: float = Field(0.5, ge=0, le=1)
    #: Focal exponent of the segmentation loss (Lin et al., 2017); 0 is plain cross entropy.
    focal: float = Field(0.0, ge=0)

    #: Places an image in L_supp, as anchors and as negatives.
    places: PositiveInt = 256
    temperature: float = Field(0.07, gt=0)
    #: How much of a class prototype each step keeps.
    momentum: float = Field(0.99, ge=0, lt=1)

    #: How many times the cycle and identity losses count inside boxes; 1 is everywhere alike.
    inside: float = Field(1.0, ge=1)
    #: Frozen network for ``weights.object``: a train-detector run or weight file, or ``clip:MODEL[:WEIGHTS]``.
    judge: str | None = None
    #: Boxes an image shown to a judge of crops.
    judge_boxes: PositiveInt = 8

    @field_validator("night_boxes", mode="before")
    @classmethod
    def _spelled(cls, value: object) -> object:
        return "none" if value is None or value is False else value  # YAML's own ways of saying none

    @model_validator(mode="after")
    def _fits(self) -> FaithfulSettings:
        w = self.weights
        if (w.hallucination_outside or w.suppression) and not w.segmentation:
            raise ValueError("hallucination_outside and suppression need the head: set faithful.weights.segmentation=1")
        if w.segmentation and self.night_boxes == "none":
            raise ValueError("the head learns from boxes: set faithful.night_boxes=real, or =PATH of pseudo boxes")
        return self

    @property
    def labels(self) -> bool:
        """Whether anything here looks at boxes."""
        w = self.weights
        return self.inside > 1 or any((w.segmentation, w.hallucination_outside, w.suppression, w.object))

    @property
    def used_night_boxes(self) -> Literal["real", "pseudo", "none"]:
        """Which night boxes training looks at; what a ``judge`` was trained on is not known here."""
        if self.night_boxes == "none" or not (self.weights.segmentation or self.inside > 1):
            return "none"
        return "real" if self.night_boxes == "real" else "pseudo"


class CropAugmentation(Settings):
    """Augmentation of training crops."""

    flip: bool = True
    #: Crops are taken at 1 to this many times the load size.
    zoom: float = Field(1.15, ge=1.0, le=4.0)


class Augmentation(CropAugmentation):
    """Augmentation of training crops, and of what the discriminators see (for small sets)."""

    #: Differentiable augmentation of real and fake alike (Zhao et al., 2020): any of color, translation, cutout.
    discriminator: tuple[Literal["color", "translation", "cutout"], ...] = ()


class CropSettings(Settings):
    """What every training on crops of image folders has."""

    #: Short side images are scaled to before cropping, pixels; null keeps their own size.
    load_size: PositiveInt | None = None
    #: Side of the square training crops, pixels.
    crop: int = Field(256, ge=64)
    augmentation: CropAugmentation = CropAugmentation()

    #: Images of each domain in one forward pass of one process.
    batch: PositiveInt = 1
    #: Forward passes a process adds up before an optimiser step.
    accumulate: PositiveInt = 1
    #: Optimiser steps (published: 200 epochs).
    steps: PositiveInt = 100_000
    #: Share of the steps at the full rate; then linear to 0 (published: 0.5).
    constant: float = Field(0.5, ge=0, le=1)
    learning_rate: float = Field(2e-4, gt=0)
    #: A folder of ``nightaug translate DATASET --translator relight``: its images stand for the day's, and the network
    #: learns to refine them; translating with it relights first. null: day to night in one step.
    day: str | None = None
    #: Decay of the generators' moving average, which is what is saved and used; 0 saves the raw weights.
    ema: float = Field(0.999, ge=0, lt=1)
    mixed_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    #: Processes that decode images; null: none on a CPU, 4 on a GPU.
    workers: int | None = Field(None, ge=0)

    #: Steps between two lines of metrics.
    log_every: PositiveInt = 50
    #: Steps between two sample grids with a score on validation images; the best score makes best.safetensors.
    sample_every: PositiveInt = 1000
    #: Steps between two training states on disk: what a crash can cost at most.
    save_every: PositiveInt = 500
    #: Validation images of each domain in the score.
    score_images: int = Field(32, ge=2)
    #: Height in pixels of the whole images in sample grids and scores.
    sample_height: int = Field(256, ge=64)
    tensorboard: bool = True

    @model_validator(mode="after")
    def _crops_fit(self) -> CropSettings:
        if self.crop % SIZE_MULTIPLE:
            raise ValueError(f"crop must be a multiple of {SIZE_MULTIPLE}, got {self.crop}")
        if self.load_size is not None and self.load_size < self.crop:
            raise ValueError(f"load_size ({self.load_size}) must be at least crop ({self.crop})")
        return self


class TranslatorSettings(CropSettings):
    """Settings of ``nightaug train-translator``; defaults are CycleGAN's published ones unless said."""

    width: PositiveInt = 64
    blocks: int = Field(9, ge=1, le=16)
    #: Published: transposed. It leaves checkerboards on smooth sky, hence not the default.
    upsampling: Upsampling = "bilinear"
    #: The generators change their input, and begin as what leaves it as it is: keeps detail that a short training would
    #: blur. Meant for refining relit days (``day``); what makes night of a day has to change too much for it.
    residual: bool = False
    discriminator_width: PositiveInt = 64
    spectral_norm: bool = False

    augmentation: Augmentation = Augmentation()
    beta1: float = Field(0.5, ge=0, lt=1)
    weights: LossWeights = LossWeights()
    #: ``cycle`` is CycleGAN. ``cut`` trains day to night alone, held to its source by patch contrast and not by a way
    #: back; ``both`` adds the patch contrast of day to night to the cycle.
    objective: Literal["cycle", "cut", "both"] = "cycle"
    contrast: ContrastSettings = ContrastSettings()
    #: Label-aware training; off unless one of its weights is set.
    faithful: FaithfulSettings = FaithfulSettings()
    #: Fakes kept for the discriminators, per direction.
    replay_buffer: int = Field(50, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> TranslatorSettings:
        if self.objective == "cut" and self.faithful.inside > 1:
            raise ValueError("faithful.inside strengthens the cycle inside boxes, and objective cut has none")
        last = max(feature_layers(self.blocks))
        wrong = [layer for layer in self.contrast.layers or () if layer not in feature_layers(self.blocks)]
        if wrong or self.contrast.layers == ():
            raise ValueError(f"contrast.layers: expected some of 0, 1, 4, 7, 9 to {last}, got {self.contrast.layers}")
        return self

    @property
    def contrast_layers(self) -> tuple[int, ...]:
        """Modules of the generator that the patch contrast compares."""
        return tuple(sorted(set(self.contrast.layers or (0, 4, 7, 10, middle_block(self.blocks)))))

    def weight_of(self, name: str) -> float:
        """The weight of a raw loss: of its own name among the label-aware ones, else of its name's first word."""
        if name.startswith("discriminator"):
            return 1.0
        own = getattr(self.faithful.weights, name, None)
        return float(getattr(self.weights, name.split("_", 1)[0]) if own is None else own)


class DistillWeights(Settings):
    """Weights of what a student is charged for, against its teacher's image."""

    #: Mean absolute difference.
    l1: float = Field(1.0, ge=0)
    #: The same of both images' differences between neighbouring pixels: edges and lamps, which the mean forgives.
    gradient: float = Field(1.0, ge=0)


class DistillSettings(CropSettings):
    """Settings of ``nightaug distill``."""

    #: Of the two ways the teacher goes.
    direction: Direction = "day2night"
    #: Channels at full size: the time a pass takes grows with it, squared where blocks are many.
    width: int = Field(24, ge=1, le=1024)
    #: Residual blocks.
    blocks: int = Field(4, ge=1, le=64)
    #: Stride-2 steps; CycleGAN's generator has two.
    halvings: int = Field(3, ge=1, le=5)
    #: Depthwise and pointwise convs in the blocks: a ninth of their work, and a copy less close.
    separable: bool = False
    batch: PositiveInt = 4
    steps: PositiveInt = 20_000
    learning_rate: float = Field(1e-3, gt=0)
    weights: DistillWeights = DistillWeights()

    @model_validator(mode="after")
    def _fits(self) -> DistillSettings:
        if self.crop % (1 << self.halvings):
            raise ValueError(f"crop must be a multiple of {1 << self.halvings} with {self.halvings} halvings")
        if not self.weights.l1 and not self.weights.gradient:
            raise ValueError("weights.l1 and weights.gradient are both 0: there is nothing to learn")
        return self
