from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.cyclegan.checkpoint import read_generator
from nightaug.cyclegan.dataset import to_image, to_tensor
from nightaug.cyclegan.networks import initialize
from nightaug.cyclegan.student import StudentGenerator, StudentShape, any_generator
from nightaug.cyclegan.translator import CycleGANTranslator, _fixed_norms, run_tiled
from nightaug.errors import CheckpointError
from nightaug.runs import save_weights

SHAPES = [(4, 1, 3, False), (4, 2, 2, True), (6, 3, 1, False)]


def student(width: int = 4, blocks: int = 1, halvings: int = 3, separable: bool = False) -> StudentGenerator:
    made = StudentGenerator(width, blocks, halvings, separable).eval().requires_grad_(False)
    initialize(made, torch.Generator().manual_seed(0), std=0.2)
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_tell_their_architecture(shape: tuple[int, int, int, bool]) -> None:
    network = student(*shape)
    again = any_generator({f"module.{key}": value for key, value in network.state_dict().items()})
    assert isinstance(again, StudentGenerator)
    assert again.shape == StudentShape(*shape)
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    assert torch.equal(again.eval()(x), network(x))


@pytest.mark.parametrize("size", [(96, 64), (97, 61), (5, 3), (1, 1)])
def test_translating_keeps_any_size(size: tuple[int, int]) -> None:
    image = picture(0, *size)
    out = CycleGANTranslator(student(), precision="fp32", device="cpu")(image)
    assert out.shape == image.shape
    if size == (96, 64):
        expected = to_image(student()(to_tensor(image)[None])[0])
        assert np.abs(out.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_an_output_pixel_sees_no_further_than_the_halo(shape: tuple[int, int, int, bool]) -> None:
    network = student(*shape)
    x = torch.rand(1, 3, 16, 512) * 2 - 1
    with torch.no_grad(), _fixed_norms(network):
        before = network(x)
        x[:, :, :, 256:] = 0.5
        changed = int((network(x) - before).abs().amax((0, 1, 2)).nonzero().min())
    assert 256 - network.radius <= changed < 256


def test_tiles_are_as_large_as_asked_and_have_no_gaps() -> None:
    image = to_tensor(picture(3, 320, 240))[None]
    with torch.inference_mode():
        out = run_tiled(student(), image, 64)
        assert out.shape == image.shape
        assert bool(out.isfinite().all())


def test_damaged_students_are_explained(tmp_path: Path) -> None:
    state = student().state_dict()
    del state["up.0.0.2.weight"]
    save_weights(tmp_path / "x.safetensors", state, {})
    with pytest.raises(CheckpointError, match=r"missing up\.0"):
        read_generator(tmp_path / "x.safetensors", "day2night")
    save_weights(tmp_path / "y.safetensors", {"stem.1.weight": torch.zeros(4, 3, 7, 7)}, {})
    with pytest.raises(CheckpointError, match="not a distilled generator"):
        read_generator(tmp_path / "y.safetensors", "day2night")
