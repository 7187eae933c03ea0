"""What label-aware training adds to a step: reading boxes, prototypes, a frozen judge, and the losses they feed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.ops import roi_align

from nightaug.cyclegan.dataset import DomainFolders
from nightaug.cyclegan.faithful_losses import (
    crop_consistency,
    hallucination_outside,
    invented,
    masked_mean,
    object_consistency,
)
from nightaug.cyclegan.label_maps import outside
from nightaug.cyclegan.pairs import GeneratorPair
from nightaug.cyclegan.patch_contrast import by_layer, patch_nce, suppression
from nightaug.cyclegan.prototypes import Prototypes, class_sums
from nightaug.cyclegan.segmentation import SegmentingDiscriminator
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.training_boxes import TrainingBoxes, read_training_boxes
from nightaug.errors import ConfigError

#: Sides of a box crop shown to a judge of crops, in pixels of the training crop, at least.
MIN_CROP_SIDE = 4.0


class LabelAware:
    """The label-aware part of a training process.

    Args:
        root: prepared dataset.
        files: its training images.
        judge: frozen network for ``weights.object``: from images (N, 3, H, W) in [-1, 1] to a list of feature maps
            (N, C, h, w); or, if it has an attribute ``crop_size`` (height, width), from box crops (P, 3, *crop_size) in
            [-1, 1] to embeddings (P, E). Gradient must reach its input. An attribute ``night_boxes`` says whether it
            was trained with labels of night images; None: not known.

    Attributes:
        boxes: of the training images.
        notes: lines on what was left out of the boxes.
        used_night_boxes: which night boxes take part, the judge's training included; what the run's weights say.
        prototypes: None where nothing is suppressed.

    Raises:
        DatasetError: there are no boxes.
        ConfigError: ``weights.object`` without a judge.
    """

    def __init__(self, root: Path, files: DomainFolders, settings: TranslatorSettings, judge: nn.Module | None) -> None:
        self.settings, options = settings, settings.faithful
        if options.weights.object and judge is None:
            raise ConfigError(
                "faithful.weights.object needs a frozen network: set faithful.judge=RUN of train-detector"
            )
        self.judge = judge.eval().requires_grad_(False) if judge is not None and options.weights.object else None
        self.boxes: TrainingBoxes
        self.boxes, self.notes = read_training_boxes(root, files.a, files.b, options)
        self.classes = len(self.boxes.classes)
        self.used_night_boxes: Literal["real", "pseudo", "none"] = options.used_night_boxes
        told = getattr(self.judge, "night_boxes", False)
        if told:
            self.used_night_boxes = "real"
        elif told is None:
            self.notes.append(
                f"whether {options.judge} has seen labels of night images is not known; if so, say that in its arm"
            )
        self.prototypes: Prototypes | None = None

    def fingerprint(self) -> str:
        """Of the boxes and of the judge's weights: a resumed run must have the same ones."""
        if self.judge is None:
            return self.boxes.fingerprint()
        digest = hashlib.sha256()
        for name, value in self.judge.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
        return f"{self.boxes.fingerprint()}, judge {digest.hexdigest()[:12]}"

    def to(self, device: torch.device, generators: GeneratorPair) -> None:
        """Make the prototypes, and move everything to the device."""
        if generators.suppressed is not None:
            channels = generators.A2B.channels(generators.suppressed)
            self.prototypes = Prototypes(self.classes, channels, self.settings.faithful.momentum, device)
        if self.judge is not None:
            self.judge = self.judge.to(device)

    def losses(
        self,
        generators: GeneratorPair,
        critic: nn.Module,
        batch: dict[str, Tensor],
        out: dict[str, Tensor],
        chance: torch.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Raw generator losses of one forward pass, and figures to watch that are no losses.

        Args:
            critic: the night discriminator, frozen here.
            batch: with label maps.
            out: of :meth:`GeneratorPair.forward`.
        """
        options, labels = self.settings.faithful, batch["labels_a"]
        raw: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        if isinstance(critic, SegmentingDiscriminator):
            with torch.set_grad_enabled(options.weights.hallucination_outside > 0):
                logits = critic.segment(out["fake_b"])
            found = invented(logits.detach(), labels)
            watched["invented_share"] = masked_mean(found.float(), outside(labels))
            # Of weight 0 it is still measured, so that runs with and without it have the same curves.
            raw["hallucination_outside"] = hallucination_outside(logits, labels)
            if options.weights.suppression:
                assert self.prototypes is not None
                name = f"/{generators.suppressed}"
                raw["suppression"] = suppression(
                    out["translated" + name], out["source" + name], found, self.prototypes.known(),
                    options.places, options.temperature, chance,
                )  # fmt: skip
        if self.judge is not None:
            raw["object"] = self._object(self.judge, batch, out["fake_b"])
        return raw, watched

    def _object(self, judge: nn.Module, batch: dict[str, Tensor], fake: Tensor) -> Tensor:
        size: tuple[int, int] | None = getattr(judge, "crop_size", None)
        if size is None:
            with torch.no_grad():
                before = judge(batch["a"])
            return object_consistency(judge(fake), before, batch["labels_a"])
        boxes = batch["boxes_a"].float()
        real = ((boxes[..., 2:] - boxes[..., :2]).amin(dim=2) >= MIN_CROP_SIDE).flatten()
        corners = list(boxes)

        def crops(image: Tensor) -> Tensor:
            cut: Tensor = roi_align(image.float(), corners, size, sampling_ratio=2, aligned=True)
            return cut

        with torch.no_grad():
            before = judge(crops(batch["a"]))
        return crop_consistency(judge(crops(fake)), before, real)

    def observe(self, batches: list[dict[str, Tensor]], features: list[Tensor], accelerator: Accelerator) -> None:
        """Move the prototypes by one step; ``features`` are those of the night images of its forward passes."""
        if self.prototypes is None:
            return
        sums = torch.stack(
            [class_sums(night, batch["labels_b"], self.classes) for night, batch in zip(features, batches, strict=True)]
        ).sum(dim=0)
        reduced: Any = accelerator.reduce(sums, "sum")
        self.prototypes.update(reduced)


def contrast_losses(
    generators: GeneratorPair, out: dict[str, Tensor], settings: TranslatorSettings, chance: torch.Generator
) -> dict[str, Tensor]:
    """PatchNCE of day to night, and of night images with what it makes of them; empty where the objective has none."""
    if generators.projection is None:
        return {}
    options, layers = settings.contrast, settings.contrast_layers
    pairs = {"nce": ("translated", "source")} | ({"nce_identity": ("same", "night")} if options.identity else {})
    return {
        name: patch_nce(
            by_layer(out, there, layers), by_layer(out, before, layers), generators.projection,
            options.places, options.temperature, chance,
        )
        for name, (there, before) in pairs.items()
    }  # fmt: skip
