from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.config import build
from nightaug.detect.checkpoint import write_detector
from nightaug.detect.detectors import build_detector
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError
from nightaug.experiment.translator_judge import load_judge

SMALL = {
    "detector": "fcos-resnet18", "width": 128, "height": 64, "fcos": {"channels": 32, "convs": 1, "width": 0.25},
    "pretrained": None,
}  # fmt: skip


@pytest.mark.parametrize("side", [64, 68])
def test_a_detector_gives_feature_maps_with_gradient(tmp_path: Path, side: int) -> None:
    settings = build(DetectorSettings, SMALL)
    detector = build_detector(settings, ("car",))
    write_detector(tmp_path / "last.safetensors", detector, settings, 1, "0")
    judge = load_judge(str(tmp_path), tmp_path).eval().requires_grad_(False)
    images = (torch.rand(2, 3, side, side) * 2 - 1).requires_grad_()
    maps = judge(images)
    assert [map_.shape[:2] for map_ in maps] == [(2, 32), (2, 32)]
    # As the detector itself sees the picture, 0 to 255.
    if side == 64:
        assert torch.allclose(maps[0], detector.eval().run((images + 1) * 127.5).pyramid[0], atol=1e-5)
    sum(map_.square().mean() for map_ in maps).backward()
    assert images.grad is not None
    assert images.grad.any()
    with pytest.raises(CheckpointError, match="no such file or run"):
        load_judge(str(tmp_path / "absent"), tmp_path)


@pytest.mark.parametrize(("domain", "says"), [("A", False), ("B", True)])
def test_a_detector_that_saw_night_labels_says_so(tmp_path: Path, domain: str, says: bool) -> None:
    settings = build(DetectorSettings, SMALL, {"data": [f"dataset:train:{domain}"]})
    write_detector(tmp_path / "last.safetensors", build_detector(settings, ("car",)), settings, 1, "0")
    assert load_judge(str(tmp_path), tmp_path).night_boxes is says


def test_a_clip_gives_embeddings_of_crops_with_gradient(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    tiny = TinySettings(size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1)
    write_tiny(tmp_path, build_tiny(tiny), tiny)
    judge = load_judge(f"clip:{tmp_path}", tmp_path).eval().requires_grad_(False)
    assert judge.crop_size == (32, 32)
    crops = (torch.rand(3, 3, 32, 32) * 2 - 1).requires_grad_()
    embeddings = judge(crops)
    assert embeddings.shape == (3, 32)
    embeddings.square().mean().backward()
    assert crops.grad is not None
    assert crops.grad.any()
