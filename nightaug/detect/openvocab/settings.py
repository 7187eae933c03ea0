"""Every constant of ViLD, LP-OVOD and VLDUS, named, with its published value (METHODS sections 3 to 5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nightaug.config import Settings


class ViLDSettings(Settings):
    """The ViLD region head (Gu et al., ICLR 2022)."""

    #: Cosines are divided by this before the softmax, in training and in use.
    temperature: float = Field(0.01, gt=0)
    #: Weights of the text loss, and of the L1 norm between region embeddings and CLIP's (0.5 times the norm is the
    #: 256 times the mean of LP-OVOD where CLIP is 512 wide).
    text: float = Field(1.0, ge=0)
    image: float = Field(0.5, ge=0)
    #: Beyond the paper: names that compete in the text loss of regions with a label, which are none of them: what is
    #: labelled a car is no bus. Regions without a label may be one, and are not asked.
    rivals: tuple[str, ...] = ()
    #: Beyond the paper: scores are the geometric mean of the class' share and objectness.
    objectness: bool = False


class LPOVODSettings(Settings):
    """The LP-OVOD region head (Pham et al., WACV 2024)."""

    #: Focal loss: the exponent that makes sure answers count less, and the weight of the positives, in [0, 1].
    gamma: float = Field(2.0, ge=0)
    alpha: float = Field(0.25, ge=0, le=1)
    #: Probability the classifier begins with: at 0.5 the thousands of negatives would drown the first steps.
    prior: float = Field(0.01, gt=0, lt=1)
    #: Weights of the focal loss, and of the mean absolute difference between region embeddings and CLIP's.
    classification: float = Field(1.0, ge=0)
    distillation: float = Field(256.0, ge=0)
    #: Cosines of region and text are divided by this before the softmax.
    temperature: float = Field(0.01, gt=0)
    #: Base class: s^(1-a) c^a, s the classifier's score and c CLIP's; novel class: c^(1-b) s^b.
    a: float = Field(0.0, ge=0, le=1)
    b: float = Field(0.8, ge=0, le=1)


class ProbeSettings(Settings):
    """Settings of ``nightaug openvocab probe``: pseudo labels from CLIP, and the linear probe trained on them."""

    #: Proposals that become pseudo labels of each novel class, the best by cosine to its text embedding.
    proposals: PositiveInt = 100
    #: Least objectness of those, in [0, 1].
    objectness: float = Field(0.5, ge=0, le=1)
    #: A proposal of such an image is trained on as its pseudo label's class from this IoU on, and as a negative of all
    #: novel classes below that one.
    positive: float = Field(0.5, gt=0, le=1)
    negative: float = Field(0.5, gt=0, le=1)
    #: Most negatives for each positive.
    negatives: float = Field(10.0, ge=0)
    #: Adam's learning rate; passes over the regions; regions a step.
    learning_rate: float = Field(1e-3, gt=0)
    epochs: PositiveInt = 12
    batch: PositiveInt = 256
    weight_decay: float = Field(0.0, ge=0)
    #: From this many proposals in the store on, the best ones are found approximately with pynndescent, which needs all
    #: embeddings in memory; null searches exactly whatever the size.
    approximate_over: PositiveInt | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    #: Epochs between two training states on disk.
    save_every: PositiveInt = 1

    @model_validator(mode="after")
    def _in_order(self) -> ProbeSettings:
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} must not be over positive {self.positive}")
        return self


class VLDUSWeights(Settings):
    """Weights of the generator's losses beside the critic's answer, and of the critic's beside its own task."""

    #: Cross entropy of synthetic features of seen classes under the detector's last layer, and of unseen ones under
    #: the unseen classifier.
    seen: float = Field(0.01, ge=0)
    unseen: float = Field(0.01, ge=0)
    #: Mode seeking (Mao et al., CVPR 2019).
    mode_seeking: float = Field(0.01, ge=0)
    #: L1 from the critic's hidden feature to CLIP's embedding of the region, and between their similarities to all
    #: class embeddings.
    image: float = Field(0.005, ge=0)
    similarity: float = Field(0.01, ge=0)
    #: Penalty on the critic's gradient (Gulrajani et al., 2017).
    penalty: float = Field(10.0, ge=0)


class VLDUSSettings(Settings):
    """Settings of ``nightaug openvocab synthesize``: the synthesizer of unseen classes' region features."""

    #: A region is an object from this IoU with one on, background under that one.
    foreground: float = Field(0.6, gt=0, le=1)
    background: float = Field(0.3, ge=0, lt=1)
    #: Most regions of one image, of objects and of background; what is kept is drawn by chance.
    objects: PositiveInt = 64
    backgrounds: PositiveInt = 16
    #: Most object features the synthesizer is trained on, drawn by chance.
    features: PositiveInt = 38_000
    #: How they are kept on disk. fp16 is half as large, and less exact than the detector itself by nothing that counts.
    precision: Literal["fp16", "fp32"] = "fp16"
    #: Width of the generator's noise, of its hidden layer, and of the critic's two.
    noise: PositiveInt = 300
    generator: PositiveInt = 4096
    critic: PositiveInt = 4096
    critic_feature: PositiveInt = 512
    #: Slope of the leaky ReLUs below 0.
    slope: float = Field(0.2, ge=0, lt=1)
    #: Standard deviation of the first weights.
    start: float = Field(0.02, gt=0)
    #: Tell generator and critic whether a region is of a day or a night image, and make features of both.
    domains: bool = False
    weights: VLDUSWeights = VLDUSWeights()
    #: Steps of the critic for each of the generator; passes over the features; features a step.
    critic_steps: PositiveInt = 5
    epochs: PositiveInt = 100
    batch: PositiveInt = 32
    #: Adam, of both.
    learning_rate: float = Field(5e-5, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    #: The unseen classifier (a linear map into the text embeddings' space), trained first on real seen features.
    unseen_epochs: PositiveInt = 20
    unseen_batch: PositiveInt = 256
    unseen_learning_rate: float = Field(1e-3, gt=0)
    #: Synthetic features a class for the last layer, how many times as many real background ones, and its training.
    synthetic: PositiveInt = 250
    background_share: float = Field(2.0, ge=0)
    classifier_epochs: PositiveInt = 15
    classifier_batch: PositiveInt = 32
    classifier_learning_rate: float = Field(1e-4, gt=0)
    seed: int = Field(0, ge=0, lt=2**31)
    #: Generator steps between two lines of metrics, and between two training states on disk.
    log_every: PositiveInt = 100
    save_every: PositiveInt = 1000

    @model_validator(mode="after")
    def _in_order(self) -> VLDUSSettings:
        if self.background > self.foreground:
            raise ValueError(f"background {self.background} must not be over foreground {self.foreground}")
        return self
