"""Every constant of CycleGAN training, named, with its unit, range and published value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nightaug.config import Settings
from nightaug.cyclegan.networks import SIZE_MULTIPLE, Upsampling


class LossWeights(Settings):
    """Weights of the generator's losses (published: 1, 10, 5)."""

    adversarial: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    identity: float = Field(5.0, ge=0)


class Augmentation(Settings):
    """Augmentation of training crops, and of what the discriminators see (for small sets)."""

    flip: bool = True
    #: Crops are taken at 1 to this many times the load size.
    zoom: float = Field(1.15, ge=1.0, le=4.0)
    #: Differentiable augmentation of real and fake alike (Zhao et al., 2020): any of color, translation, cutout.
    discriminator: tuple[Literal["color", "translation", "cutout"], ...] = ()


class TranslatorSettings(Settings):
    """Settings of ``nightaug train-translator``; defaults are CycleGAN's published ones unless said."""

    width: PositiveInt = 64
    blocks: int = Field(9, ge=1, le=16)
    #: Published: transposed. It leaves checkerboards on smooth sky, hence not the default.
    upsampling: Upsampling = "bilinear"
    discriminator_width: PositiveInt = 64
    spectral_norm: bool = False

    #: Short side images are scaled to before cropping, pixels; null keeps their own size.
    load_size: PositiveInt | None = None
    #: Side of the square training crops, pixels.
    crop: int = Field(256, ge=64)
    augmentation: Augmentation = Augmentation()

    #: Images of each domain in one forward pass of one process.
    batch: PositiveInt = 1
    #: Forward passes a process adds up before an optimiser step.
    accumulate: PositiveInt = 1
    #: Optimiser steps (published: 200 epochs).
    steps: PositiveInt = 100_000
    #: Share of the steps at the full rate; then linear to 0 (published: 0.5).
    constant: float = Field(0.5, ge=0, le=1)
    learning_rate: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    weights: LossWeights = LossWeights()
    #: Fakes kept for the discriminators, per direction.
    replay_buffer: int = Field(50, ge=0)
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
    def _fits(self) -> TranslatorSettings:
        if self.crop % SIZE_MULTIPLE:
            raise ValueError(f"crop must be a multiple of {SIZE_MULTIPLE}, got {self.crop}")
        if self.load_size is not None and self.load_size < self.crop:
            raise ValueError(f"load_size ({self.load_size}) must be at least crop ({self.crop})")
        return self
