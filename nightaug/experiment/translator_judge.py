"""The frozen network that label-aware translator training compares objects with: a detector's features, or CLIP.

Not to be confused with the judge of a comparison: what took part in training a translator cannot judge it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.clip.encoder import Clip, load_clip
from nightaug.curate.judge_labels import judge_night_boxes
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.detectors import Detector

#: Prefix of a CLIP among judges.
CLIP = "clip:"
#: Pyramid levels compared: the finest two, where small objects are.
LEVELS = 2
#: Sides of what a detector is shown must be a multiple of this, pixels.
STRIDE = 32


class DetectorFeatures(nn.Module):
    """A detector's finest pyramid levels, (N, 3, H, W) in [-1, 1] to [(N, C, h, w)].

    Attributes:
        night_boxes: whether the detector has learnt from labels of night images; None: not known.
    """

    def __init__(self, detector: Detector, night_boxes: bool | None = None) -> None:
        super().__init__()
        self.detector, self.night_boxes = detector, night_boxes

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images.float() + 1) * 127.5
        height, width = (-(-side // STRIDE) * STRIDE for side in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        return self.detector.run(x).pyramid[:LEVELS]


class ClipCrops(nn.Module):
    """A CLIP's image embeddings of crops, (P, 3, h, w) in [-1, 1] to (P, E), with gradient.

    Attributes:
        crop_size: height and width of the crops it wants, pixels.
    """

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.model, self.crop_size = clip.model, clip.size
        self.register_buffer("mean", clip._mean.clone(), persistent=False)
        self.register_buffer("deviation", clip._std.clone(), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        with torch.autocast(crops.device.type, enabled=False):
            x = ((crops.float() + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("deviation")
            out: Tensor = self.model.encode_image(x).float()  # type: ignore[operator]
        return out


def load_judge(spec: str, dataset: Path) -> nn.Module:
    """The network that ``faithful.judge`` names: ``clip:MODEL[:WEIGHTS]``, or a train-detector run or weight file.

    Args:
        dataset: what the translator is trained on; a detector trained on all of its dataset is taken to mean this one.

    Raises:
        CheckpointError: no usable weights there.
        ConfigError: what it needs is not installed, or an unknown CLIP.
    """
    if spec.startswith(CLIP):
        return ClipCrops(load_clip(spec.removeprefix(CLIP), precision="fp32"))
    return DetectorFeatures(load_detector(Path(spec)), judge_night_boxes(Path(spec), dataset))
