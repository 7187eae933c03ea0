"""The generators and the discriminators of a run, each group behind one forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nightaug.cyclegan.networks import PatchDiscriminator, ResnetGenerator, initialize, middle_block
from nightaug.cyclegan.patch_contrast import PatchProjection
from nightaug.cyclegan.segmentation import SegmentingDiscriminator, initialize_decoder
from nightaug.cyclegan.settings import TranslatorSettings


class GeneratorPair(nn.Module):
    """Both generators behind one forward pass, so that data parallel training sees one call a step.

    Attributes:
        A2B: day to night.
        B2A: night to day; None where the objective is ``cut``.
        projection: the heads of the patch contrast; None where the objective is ``cycle``.
    """

    def __init__(self, settings: TranslatorSettings) -> None:
        super().__init__()
        shape = (settings.width, settings.blocks, settings.upsampling, settings.residual)
        self.A2B = ResnetGenerator(*shape)
        self.B2A = ResnetGenerator(*shape) if settings.objective != "cut" else None
        contrast = settings.contrast_layers if settings.objective != "cycle" else ()
        self.projection = (
            PatchProjection({layer: self.A2B.channels(layer) for layer in contrast}, settings.contrast.width)
            if contrast
            else None
        )
        #: The module whose features L_supp compares, or None.
        self.suppressed = middle_block(settings.blocks) if settings.faithful.weights.suppression else None
        self._compared = {*contrast, *(() if self.suppressed is None else (self.suppressed,))}
        self._identity_contrast = bool(contrast) and settings.contrast.identity

    def forward(self, a: Tensor, b: Tensor, identity: bool) -> dict[str, Tensor]:
        """Real A and B, each (N, 3, H, W) in [-1, 1], to fakes, reconstructions and identity images.

        Where places are compared, features of day to night's encoder come with them, (N, C, h, w) under
        ``NAME/layer``: ``source`` (of a), ``translated`` (of fake_b), ``night`` (of b) and, for the patch contrast,
        ``same`` (of same_b).
        """
        fake_b, source = self.A2B.forward_features(a, self._compared)
        out = {"fake_b": fake_b}
        if self.B2A is not None:
            out["fake_a"] = fake_a = self.B2A(b)
            out |= {"rec_a": self.B2A(fake_b), "rec_b": self.A2B(fake_a)}
        night: dict[int, Tensor] = {}
        if (identity and self.B2A is not None) or self._identity_contrast:
            out["same_b"], night = self.A2B.forward_features(b, self._compared)
        if identity and self.B2A is not None:
            out["same_a"] = self.B2A(a)
        if not self._compared:
            return out
        if self.suppressed is not None and not night:
            with torch.no_grad():
                night = self.A2B.features(b, {self.suppressed})
        named = {"source": source, "translated": self.A2B.features(fake_b, self._compared), "night": night}
        if self._identity_contrast:
            named["same"] = self.A2B.features(out["same_b"], self._compared)
        return out | {f"{name}/{layer}": value for name, maps in named.items() for layer, value in maps.items()}


class DiscriminatorPair(nn.Module):
    """Both discriminators; ``A`` judges day images (None where the objective is ``cut``), ``B`` night images.

    Args:
        classes: of the segmenting head of ``B``; 0 for none.
    """

    def __init__(self, settings: TranslatorSettings, classes: int = 0) -> None:
        super().__init__()
        shape = (settings.discriminator_width, settings.spectral_norm)
        self.A = PatchDiscriminator(*shape) if settings.objective != "cut" else None
        self.B = (
            SegmentingDiscriminator(*shape, classes, settings.faithful.head_width)
            if classes
            else PatchDiscriminator(*shape)
        )

    def forward(self, shown: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of each of ``real_a``, ``fake_a``, ``real_b``, ``fake_b`` that is shown; of ``segmented``, classes."""
        out = {}
        for name, image in shown.items():
            if name == "segmented":
                assert isinstance(self.B, SegmentingDiscriminator)
                out[name] = self.B.segment(image)
            else:
                network = self.A if name.endswith("_a") else self.B
                assert network is not None
                out[name] = network(image)
        return out


def initialize_pairs(generators: GeneratorPair, discriminators: DiscriminatorPair, chance: torch.Generator) -> None:
    """Published initialisation; what label-aware training adds comes last, so that the rest starts as without it."""
    networks = [generators.A2B, generators.B2A, discriminators.A]
    for network in networks:
        if network is not None:
            initialize(network, chance)
            if isinstance(network, ResnetGenerator) and network.residual is not None:
                nn.init.zeros_(network.last.weight)  # nothing is changed at first
    initialize(nn.ModuleDict({"model": discriminators.B.model}), chance)
    if generators.projection is not None:
        initialize(generators.projection, chance)
    if isinstance(discriminators.B, SegmentingDiscriminator):
        initialize_decoder(discriminators.B.decoder, chance)
