"""Every constant of detector training and inference, named, with its unit, range and default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nightaug.config import Settings
from nightaug.detect.adaptation.settings import AdaptationSettings
from nightaug.detect.rcnn_settings import RCNNSettings

#: Network inputs are whole multiples of this many pixels (the stride YOLO needs; FCOS pads its own P6 and P7).
SIZE_MULTIPLE = 32

#: How the names of two-stage detectors begin.
TWO_STAGE = "faster-rcnn"


class FCOSSettings(Settings):
    """The shape of an FCOS (Tian et al., 2019) and the weights of its losses."""

    #: Channels of the pyramid and of both head towers (published: 256).
    channels: int = Field(256, ge=32)
    #: Convolutions of each head tower (published: 4).
    convs: int = Field(4, ge=1, le=8)
    #: Share of the backbone's channels (fcos-resnet18 without pretrained weights only): 0.5 trains three times as fast.
    width: float = Field(1.0, gt=0, le=1)
    #: Normalisation of the backbone. auto: frozen with pretrained weights, group from scratch.
    norm: Literal["auto", "batch", "frozen", "group"] = "auto"
    #: A location is positive within this many strides of an object's centre (published: 1.5).
    radius: float = Field(1.5, gt=0)
    #: Give objects smaller than a stride the locations that a stride-sized box would have; they have none otherwise.
    reach_tiny: bool = True
    classification: float = Field(1.0, ge=0)
    box: float = Field(1.0, ge=0)
    centerness: float = Field(1.0, ge=0)


class YOLOSettings(Settings):
    """Weights of the YOLO losses (ultralytics' defaults)."""

    box: float = Field(7.5, ge=0)
    cls: float = Field(0.5, ge=0)
    dfl: float = Field(1.5, ge=0)


class DetectorAugmentation(Settings):
    """Random changes of training images; boxes follow."""

    #: Probability of a left-right flip.
    flip: float = Field(0.5, ge=0, le=1)
    #: Images are scaled by 1/(1+zoom) to 1+zoom, then cut or padded at a random place.
    zoom: float = Field(0.5, ge=0, le=3)
    #: Relative range of brightness and of contrast.
    brightness: float = Field(0.2, ge=0, le=1)
    #: Range of hue (degrees) and relative range of saturation.
    hue: float = Field(5.0, ge=0, le=90)
    saturation: float = Field(0.3, ge=0, le=1)
    #: Probability of a light blur, and of noise.
    blur: float = Field(0.0, ge=0, le=1)
    noise: float = Field(0.0, ge=0, le=1)
    #: A pipeline of your own, saved with albumentations.save (JSON or YAML), in place of flip, colour, blur and noise.
    pipeline: str | None = None
    #: A box that keeps less than this share of its area in the cut is not trained on, and not background either; one
    #: of which a pipeline of your own leaves less is gone.
    min_visible: float = Field(0.3, ge=0, le=1)


class DetectorSettings(Settings):
    """Settings of ``nightaug train-detector``."""

    #: What is trained on, NAME:SPLIT:DOMAIN:WEIGHT each; nothing means dataset:train:all.
    data: tuple[str, ...] = ()
    #: What is evaluated while training, likewise; nothing means dataset:val:all where the dataset has that.
    validation: tuple[str, ...] = ()
    #: Classes to train, in this order; null: all that are labelled.
    classes: tuple[str, ...] | None = None
    #: Classes to rename first, e.g. {rider: pedestrian}.
    rename: dict[str, str] = Field(default_factory=dict)
    #: Classes whose images are not trained on at all, e.g. those that are to be unseen (Bansal et al., 2018).
    exclude: tuple[str, ...] = ()
    #: Unlabelled images of the target domain, for adaptation: a folder or dataset, NAME:SPLIT:DOMAIN like data.
    target: str | None = None
    #: Learn from the target's images, too: the vision-language night head (METHODS section 2), or none.
    adapt: Literal["none", "vlmcshfg"] = "none"
    adaptation: AdaptationSettings = AdaptationSettings()
    #: MODEL:TAG or MODEL:FILE of open_clip, local-dir:FOLDER, or none.
    clip: str = "none"
    #: Objects that CLIP no longer recognises after translation: trained on as they are, by weight, or not at all.
    clip_gate: Literal["none", "weigh", "drop"] = "none"

    #: fcos-resnet18|50|101, fcos-mobilenet, faster-rcnn-resnet18|50|101, yolo11n|s|m|l|x, yolov8n.., yolo26n..,
    #: yolov5nu.., or a YOLO .yaml or .pt.
    detector: str = "fcos-resnet50"
    #: Network input, pixels; images are letterboxed into it.
    width: int = Field(640, ge=64)
    height: int = Field(384, ge=64)
    #: Pretrained weights: a torchvision tag (IMAGENET1K_V1, COCO_V1), a weight file, or null for none; YOLO: a weight
    #: file, or auto for the release of that name.
    pretrained: str | None = None
    #: A detector of nightaug (run folder or weight file) to start from; its classes must be the same.
    weights: str | None = None
    fcos: FCOSSettings = FCOSSettings()
    yolo: YOLOSettings = YOLOSettings()
    rcnn: RCNNSettings = RCNNSettings()

    #: Images in one forward pass of one process.
    batch: PositiveInt = 8
    #: Forward passes a process adds up before an optimiser step.
    accumulate: PositiveInt = 1
    steps: PositiveInt = 20_000
    optimizer: Literal["sgd", "adamw"] = "sgd"
    #: At a global batch of any size; null: 0.01 x global batch / 16 for sgd, 0.001 x sqrt(global batch / 16) for adamw.
    learning_rate: float | None = Field(None, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    #: Steps over which the rate rises from 0.
    warmup: int = Field(500, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    #: step: the rate falls to a tenth at these shares of the steps.
    drops: tuple[float, ...] = (0.67, 0.89)
    #: Decay of the weights' moving average, which is what is saved and used; 0 saves the raw weights.
    ema: float = Field(0.999, ge=0, lt=1)
    #: Longest gradient, L2 norm over all weights; null does not clip.
    clip_norm: float | None = Field(10.0, gt=0)
    augmentation: DetectorAugmentation = DetectorAugmentation()
    #: Repeat-factor sampling (Gupta et al., 2019): images with classes rarer than this share come more often; 0: off.
    balance: float = Field(0.0, ge=0, le=1)
    mixed_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    #: Processes that decode images; null: none on a CPU, 4 on a GPU.
    workers: int | None = Field(None, ge=0)

    #: Detections below this score are never given; most of them an image; overlap at which the weaker one goes.
    score: float = Field(0.01, ge=0, le=1)
    max_detections: PositiveInt = 100
    nms: float = Field(0.6, gt=0, le=1)

    #: Steps between two lines of metrics.
    log_every: PositiveInt = 50
    #: Steps between two evaluations on validation images; the best AP makes best.safetensors. 0: never.
    evaluate_every: int = Field(2000, ge=0)
    #: At most this many validation images, spread evenly.
    evaluate_images: PositiveInt = 500
    #: Evaluations without a better AP before training stops; null never stops early.
    patience: PositiveInt | None = None
    #: Steps between two training states on disk: what a crash can cost at most.
    save_every: PositiveInt = 500
    tensorboard: bool = True

    @model_validator(mode="after")
    def _fits(self) -> DetectorSettings:
        for name in ("width", "height"):
            if getattr(self, name) % SIZE_MULTIPLE:
                raise ValueError(f"{name} must be a multiple of {SIZE_MULTIPLE}, got {getattr(self, name)}")
        if self.fcos.channels % 32:
            raise ValueError(f"fcos.channels must be a multiple of 32, got {self.fcos.channels}")
        if self.adapt != "none" and self.target is None:
            raise ValueError("--adapt needs unlabelled images of the target: add --target NIGHT_IMAGES")
        two_stages = self.detector.startswith(TWO_STAGE)
        if self.adapt != "none" and two_stages:
            raise ValueError(f"--adapt works on FCOS and YOLO, not on {self.detector}: choose another --detector")
        if self.rcnn.class_agnostic and not two_stages:
            raise ValueError(f"rcnn.class_agnostic is for {TWO_STAGE}-resnet18|50|101, not for {self.detector}")
        if self.clip_gate != "none" and self.clip == "none":
            raise ValueError(f"clip_gate {self.clip_gate} needs a CLIP: add --clip MODEL:TAG")
        if any(not 0 < drop < 1 for drop in self.drops):
            raise ValueError(f"drops are shares of the steps, each between 0 and 1, got {self.drops}")
        return self
