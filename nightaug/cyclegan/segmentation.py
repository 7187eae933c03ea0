"""The second, segmenting head of the night discriminator (Li, Tan and Tan, AAAI 2026).

It learns on real night images what an object of each class looks like at night; on translated images it then says
where the generator has drawn something that looks like one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.cyclegan.label_maps import UNKNOWN, UNSURE
from nightaug.cyclegan.networks import PatchDiscriminator


class SegmentationDecoder(nn.Module):
    """From the PatchGAN's features to classes at full resolution, a light U-Net (Ronneberger et al., 2015).

    Args:
        encoder_width: channels of the discriminator's first conv.
        classes: without background, which becomes channel 0.
        width: channels of the finest level; the levels below have twice and four times as many.

    Shape:
        The image (N, 3, H, W) and the encoder's maps, finest first, to logits (N, classes + 1, H, W).
    """

    def __init__(self, encoder_width: int, classes: int, width: int) -> None:
        super().__init__()
        w = encoder_width

        def block(inputs: int, outputs: int) -> nn.Sequential:
            # Group norm: it keeps how the channels stand to each other, which instance norm would level.
            groups = next(number for number in (8, 4, 2, 1) if outputs % number == 0)
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect"),
                nn.GroupNorm(groups, outputs),
                nn.LeakyReLU(0.2, True),
            )

        self.deepest = block(8 * w, 4 * width)
        self.blocks = nn.ModuleList(
            [
                block(4 * width + 4 * w, 4 * width),
                block(4 * width + 2 * w, 2 * width),
                block(2 * width + w, width),
                block(width + 3, width),
            ]
        )
        self.logits = nn.Conv2d(width, classes + 1, 1)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        x = self.deepest(maps[-1])
        for block, skip in zip(self.blocks, (*reversed(maps[:-1]), image), strict=True):
            x = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        out: Tensor = self.logits(x)
        return out


class SegmentingDiscriminator(PatchDiscriminator):
    """A PatchGAN whose conv trunk also feeds a :class:`SegmentationDecoder`.

    Calling it gives the style logits of :class:`PatchDiscriminator`; :meth:`segment` the class logits.
    """

    def __init__(self, width: int, spectral: bool, classes: int, head_width: int) -> None:
        super().__init__(width, spectral)
        self.decoder = SegmentationDecoder(width, classes, head_width)

    def segment(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to class logits (N, classes + 1, H, W), channel 0 background."""
        maps = []
        x = image
        for module in list(self.model)[:-1]:
            x = module(x)
            if isinstance(module, nn.LeakyReLU):
                maps.append(x)
        out: Tensor = self.decoder(image, maps)
        return out


def initialize_decoder(decoder: nn.Module, generator: torch.Generator) -> None:
    """Conv weights as He et al. (2015), norms 1, biases 0, drawn from ``generator`` alone."""
    for name, parameter in decoder.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 4:
                parameter.normal_(0.0, (2.0 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def segmentation_loss(logits: Tensor, labels: Tensor, balance: float = 0.5, focal: float = 0.0) -> Tensor:
    """Class-balanced, focal cross entropy over the pixels that are known.

    sum_i w(y_i) (1 - p_i)^focal (-log p_i) / sum_i w(y_i), with p_i the probability of pixel i's own class y_i and
    w(c) = (number of pixels of class c in the batch) ** -balance, so that at 1 every class that is there counts alike
    and at 0 every pixel does. Focal: Lin et al., ICCV 2017.

    Args:
        logits: (N, C + 1, H, W).
        labels: uint8 (N, H, W) label maps; ``UNSURE`` and ``UNKNOWN`` pixels are left out.

    Returns:
        Scalar () >= 0; 0 where no pixel is known.
    """
    channels = logits.shape[1]
    known = (labels != UNSURE) & (labels != UNKNOWN)
    own = torch.where(known, labels, 0).long()
    log_p = F.log_softmax(logits.float(), dim=1).gather(1, own[:, None])[:, 0]
    counts = torch.zeros(channels, device=logits.device).scatter_add_(0, own.flatten(), known.float().flatten())
    weight = counts.clamp(min=1).pow(-balance)[own] * known
    # Not to 0, where the gradient of a power below 1 is infinite: a pixel the head is sure of.
    error = -log_p if focal == 0 else -log_p * (1 - log_p.exp()).clamp(min=1e-6).pow(focal)
    return (weight * error).sum() / weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
