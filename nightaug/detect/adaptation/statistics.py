"""Part ``statistics``: a detector's normalisation statistics, measured anew on images of both domains.

Batch normalisation carries the mean and variance of what a network was trained on into every prediction; night images
have others. Measuring them again without a label (AdaBN, Li et al., Pattern Recognition 2018) on equally many images
of both domains, mixed in every batch (as Schneider et al., NeurIPS 2020, mix the two), changes no weight and takes
seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nightaug.detect.dataset import StillImages, make_loader
from nightaug.detect.detectors import Detector
from nightaug.detect.inference import look
from nightaug.detect.sampling import Mixture
from nightaug.errors import ConfigError

#: Images of each domain that are looked at.
IMAGES = 160


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The layers whose statistics can be measured; frozen ones are not among them.

    Raises:
        ConfigError: there are none.
    """
    found = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not found:
        raise ConfigError(
            "adaptation.parts names statistics, and this detector has no batch normalisation: leave it out, or take a "
            "YOLO or an FCOS with fcos.norm=batch"
        )
    return found


def drawn(mixture: Mixture, count: int = IMAGES) -> list[Path]:
    """Images of the first ``count`` draws, each once, so that sources come in their shares."""
    places = (mixture.draw(index) for index in range(count))
    paths = (mixture.sources[source].frames[frame].path for source, frame in places)
    return list(dict.fromkeys(path for path in paths if path is not None))


@torch.no_grad()
def with_statistics(
    network: Detector, source: Sequence[Path], target: Sequence[Path], batch: int, precision: str, workers: int = 0
) -> Detector:
    """A copy of the network with the statistics of these images, the domains in equal parts.

    Args:
        network: not changed.
        source, target: image files; those that cannot be decoded are stepped over.
        batch: images of each domain in a forward pass.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    measured = copy.deepcopy(network).eval()
    device = next(measured.parameters()).device
    paths = list(chain.from_iterable(zip(source, target, strict=False)))
    images = StillImages(paths, measured.width, measured.height)
    layers = batch_norms(measured)
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, each counting as much as the others
        layer.train()
    for group in make_loader(images, range(len(paths)), 2 * batch, workers, False, drop_last=False):
        seen = torch.tensor([box.width > 0 for box in group.letterboxes])
        if seen.any():
            look(measured, group.images[seen], device, precision)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
    return measured.eval()


class Statistics:
    """The statistics of a training run, measured once a step, however often they are asked for.

    Args:
        source, target: what the run draws its labelled and its unlabelled images from.
        batch: images of each domain in a forward pass.
        workers: processes that decode.
    """

    def __init__(self, source: Mixture, target: Mixture, batch: int, workers: int = 0) -> None:
        self.source, self.target, self.batch, self.workers = source, target, batch, workers
        self._newest: tuple[int, Detector] | None = None

    def __call__(self, network: Detector, step: int, precision: str) -> Detector:
        """:func:`with_statistics` of the network as it is after ``step``."""
        if self._newest is None or self._newest[0] != step:
            paths = drawn(self.source), drawn(self.target)
            self._newest = step, with_statistics(network, *paths, self.batch, precision, self.workers)
        return self._newest[1]
