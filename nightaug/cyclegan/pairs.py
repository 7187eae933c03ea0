"""Both generators and both discriminators, each pair behind one forward pass."""

from __future__ import annotations

from torch import Tensor, nn

from nightaug.cyclegan.networks import PatchDiscriminator, ResnetGenerator
from nightaug.cyclegan.settings import TranslatorSettings


class GeneratorPair(nn.Module):
    """Both generators behind one forward pass, so that data parallel training sees one call a step."""

    def __init__(self, settings: TranslatorSettings) -> None:
        super().__init__()
        shape = (settings.width, settings.blocks, settings.upsampling)
        self.A2B, self.B2A = ResnetGenerator(*shape), ResnetGenerator(*shape)

    def forward(self, a: Tensor, b: Tensor, identity: bool) -> dict[str, Tensor]:
        """Real A and B, each (N, 3, H, W) in [-1, 1], to fakes, reconstructions and identity images."""
        fake_b, fake_a = self.A2B(a), self.B2A(b)
        out = {"fake_b": fake_b, "fake_a": fake_a, "rec_a": self.B2A(fake_b), "rec_b": self.A2B(fake_a)}
        if identity:
            out |= {"same_b": self.A2B(b), "same_a": self.B2A(a)}
        return out


class DiscriminatorPair(nn.Module):
    """Both discriminators; ``A`` judges day images, ``B`` night images."""

    def __init__(self, settings: TranslatorSettings) -> None:
        super().__init__()
        self.A = PatchDiscriminator(settings.discriminator_width, settings.spectral_norm)
        self.B = PatchDiscriminator(settings.discriminator_width, settings.spectral_norm)

    def forward(self, real_a: Tensor, fake_a: Tensor, real_b: Tensor, fake_b: Tensor) -> tuple[Tensor, ...]:
        return self.A(real_a), self.A(fake_a), self.B(real_b), self.B(fake_b)
