"""CLIP on cropped regions: any class by its name, with nothing trained but the proposals.

The first baseline of ViLD (Gu et al., ICLR 2022, section 3.2): CLIP looks at the crop of every proposal. Slow, as each
crop is a forward pass of CLIP; what the three methods learn is to have that in one pass of the detector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nightaug.clip.crops import cut, grown, large_enough
from nightaug.clip.encoder import Clip
from nightaug.clip.prompts import BACKGROUND, Prompts
from nightaug.data.classes import canonical_classes
from nightaug.detect.detectors import Detector, Forward, Found
from nightaug.detect.detectors.rcnn_proposals import best_of_classes
from nightaug.detect.openvocab.embed import CONTEXT
from nightaug.detect.openvocab.proposals import ProposalDetector
from nightaug.detect.openvocab.vocabulary import load_text
from nightaug.devices import check_device, default_device
from nightaug.errors import ConfigError

#: Proposals of an image that are named, and the IoU over which the weaker of two is not.
MOST, OVERLAP = 100, 0.7
#: Proposals narrower or lower than this many pixels of the network's input show CLIP nothing.
MIN_SIDE = 4.0
#: Crops a forward pass of CLIP.
CROPS = 256
_IMAGES = "images to crop"


class CropDetector(Detector):
    """The proposals of a detector, each with the class whose name CLIP finds most like its crop.

    A class' score is the geometric mean of objectness and the class' share of CLIP's softmax over all classes and
    background; the embedding of a crop is that of ``openvocab embed``.

    Args:
        detector: says where something is; its own classes are not looked at.
        clip: on the detector's device.
        names: classes to look for.
        most: proposals of an image that are named, the best.

    Raises:
        ConfigError: no class.
    """

    def __init__(self, detector: Detector, clip: Clip, names: Sequence[str], most: int = MOST) -> None:
        super().__init__()
        self.classes = canonical_classes(names)
        if not self.classes:
            raise ConfigError("name at least one class to look for")
        self.name = f"{detector.name}, named by {clip.name}"
        self.width, self.height = detector.width, detector.height
        self.score, self.nms, self.max_detections = detector.score, detector.nms, detector.max_detections
        self.clip = clip
        self.proposals = ProposalDetector(detector, 0.0, OVERLAP, most)
        # Background competes, whether or not a class has its name.
        self.text = Prompts(clip).embed([*self.classes, BACKGROUND])

    def run(self, images: Tensor) -> Forward:
        """See :meth:`Detector.run`."""
        forward = self.proposals.run(images)
        forward.outputs[_IMAGES] = images
        return forward

    @torch.no_grad()
    def found(self, forward: Forward) -> list[Found]:
        """The named proposals of each image, suppressed class by class."""
        images: Tensor = forward.outputs[_IMAGES]
        pairs = zip(images, self.proposals.found(forward), strict=True)
        return [self._named(image, found) for image, found in pairs]

    def _named(self, image: Tensor, found: Found) -> Found:
        height, width = image.shape[-2:]
        kept = large_enough(found.boxes, MIN_SIDE, width, height)
        boxes, objectness = found.boxes[kept], found.scores[kept]
        shares = (self.clip.scale * self.embed(image, boxes) @ self.text.T).softmax(1)[:, :-1].to(boxes.device)
        scores = (objectness[:, None] * shares).sqrt()
        return best_of_classes(boxes, scores, self.score, self.nms, self.max_detections)

    def embed(self, image: Tensor, boxes: Tensor) -> Tensor:
        """(P, E) unit length: normalise(CLIP(crop) + CLIP(crop grown 1.5 times)).

        Args:
            image: (3, H, W), 0 to 255.
            boxes: (P, 4) xyxy pixels of that image, inside it.
        """
        whole = image if image.dtype == torch.uint8 else image.float() / 255
        height, width = image.shape[-2:]
        parts = [torch.zeros(0, self.clip.width, device=self.clip.device)]
        for some in torch.split(boxes, CROPS):
            near, far = (
                self.clip.embed_images(cut(whole, each, self.clip.size), normalize=False)
                for each in (some, grown(some, CONTEXT, width, height))
            )
            parts.append(normalize(near + far, dim=1))
        return torch.cat(parts)


def naming_clip(spec: str | None, device: str | None) -> Clip:
    """The CLIP that is to name proposals, on the device they will be found on (None: a GPU where there is one).

    Args:
        spec: its MODEL:TAG.

    Raises:
        ConfigError: nobody says which, or the device is not there.
        CheckpointError: it cannot be had.
    """
    device = device or default_device()
    check_device(device)
    return load_text({}, spec, device)
