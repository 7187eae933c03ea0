from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nightaug.cyclegan.networks import (
    PatchDiscriminator,
    ResnetGenerator,
    generator_from_state,
    generator_shape,
    initialize,
)
from nightaug.cyclegan.pairs import DiscriminatorPair, GeneratorPair, initialize_pairs
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.errors import CheckpointError
from nightaug.pickles import load_torch

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    io = np.load(GOLDEN / f"{name}_io.npz")
    return load_torch(GOLDEN / f"{name}.pth"), torch.tensor(io["x"]).float(), torch.tensor(io["y"]).float()


def test_published_generator_weights_give_the_published_output() -> None:
    state, x, y = golden("resnet_9blocks_ngf8")
    network = generator_from_state(state)
    assert generator_shape(state) == (8, 9, "transposed", False)
    assert torch.allclose(network(x), y, rtol=1e-4, atol=1e-4)


def test_published_discriminator_weights_give_the_published_output() -> None:
    state, x, y = golden("patchgan70_ndf8")
    network = PatchDiscriminator(8)
    network.load_state_dict(state)
    assert torch.allclose(network(x), y, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_published_ones() -> None:
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(ResnetGenerator(64, 9, "transposed")) == 11_378_179
    assert count(PatchDiscriminator(64)) == 2_764_737


@pytest.mark.parametrize("upsampling", ["bilinear", "transposed"])
@pytest.mark.parametrize(("blocks", "residual"), [(1, True), (6, False)])
def test_own_weights_come_back_with_their_architecture(upsampling: str, blocks: int, residual: bool) -> None:
    network = ResnetGenerator(4, blocks, upsampling, residual)  # type: ignore[arg-type]
    prefixed = {f"module._orig_mod.{key}": value for key, value in network.state_dict().items()}
    prefixed["module.model.2.running_mean"] = torch.zeros(4)  # old public weights carry these
    again = generator_from_state(prefixed)
    x = torch.rand(1, 3, 24, 36) * 2 - 1
    assert torch.equal(again(x), network(x))
    assert again(x).shape == x.shape


def test_a_residual_generator_begins_as_what_changes_nothing_and_learns() -> None:
    settings = TranslatorSettings(width=4, blocks=1, residual=True, crop=64)
    pair = GeneratorPair(settings)
    initialize_pairs(pair, DiscriminatorPair(settings), torch.Generator().manual_seed(0))
    image = torch.rand(1, 3, 32, 48) * 1.9 - 0.95
    for network in (pair.A2B, pair.B2A):
        assert network is not None
        assert torch.equal(network(image), image)
        assert torch.equal(network.forward_features(image, [4])[0], image), "training sees what translating does"
        network(image).square().sum().backward()
        assert network.last.weight.grad is not None
        assert network.last.weight.grad.abs().max() > 0
    assert not torch.equal(ResnetGenerator(4, 1)(image), image)


def test_foreign_and_broken_weights_are_explained() -> None:
    with pytest.raises(CheckpointError, match=r"expected keys like model\.1\.weight, got conv1"):
        generator_from_state({"conv1.weight": torch.zeros(4, 3, 7, 7)})
    state = ResnetGenerator(4, 2).state_dict()
    del state["model.4.bias"]
    state["model.7.weight"] = torch.zeros(1, 2, 3, 3)
    with pytest.raises(
        CheckpointError, match=r"missing model\.4\.bias; wrong shape model\.7\.weight: expected \(16, 8, 3, 3\)"
    ):
        generator_from_state(state)


def test_bilinear_upsampling_leaves_no_checkerboard() -> None:
    @torch.no_grad()
    def checkerboard(upsampling: str) -> float:
        network = ResnetGenerator(8, 1, upsampling)  # type: ignore[arg-type]
        initialize(network, torch.Generator().manual_seed(0), std=0.2)
        # The first upsampling of a smooth ramp, away from the borders.
        inner = network.model[:12](torch.linspace(-1, 1, 64).expand(1, 3, 64, 64))[:, :, 8:-8, 8:-8]
        pattern = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[None, None].expand(inner.shape[1], 1, 2, 2) / 4
        high = torch.nn.functional.conv2d(inner, pattern, groups=inner.shape[1])
        return float(high.std() / inner.std())

    assert checkerboard("bilinear") < 0.3 * checkerboard("transposed")


def test_initialisation_is_the_papers_and_deterministic() -> None:
    networks = [ResnetGenerator(16, 2) for _ in range(2)]
    for network in networks:
        initialize(network, torch.Generator().manual_seed(1))
    weight = networks[0].model[7].weight
    assert abs(float(weight.detach().std()) - 0.02) < 0.001
    assert torch.equal(weight, networks[1].model[7].weight)
    assert not networks[0].model[7].bias.any()


def test_spectral_norm_bounds_the_discriminator() -> None:
    network = PatchDiscriminator(4, spectral=True)
    x = torch.rand(1, 3, 64, 64)
    for _ in range(20):
        network(x)
    weight = network.model[2].weight
    assert float(torch.linalg.matrix_norm(weight.flatten(1), ord=2)) < 1.05
