from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from street import TINY

from nightaug.config import build
from nightaug.detect.detectors import Target, build_detector
from nightaug.detect.detectors.fcos import FCOSDetector
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import Letterbox

CLASSES = ("car", "traffic light")


def make(**changes: object) -> FCOSDetector:
    detector = build_detector(build(DetectorSettings, TINY, changes), CLASSES)
    assert isinstance(detector, FCOSDetector)
    return detector


def images(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 255, (count, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def targets(*boxes: list[list[float]]) -> list[Target]:
    return [Target(torch.tensor(b).reshape(-1, 4), torch.arange(len(b)) % 2, torch.ones(len(b))) for b in boxes]


@pytest.mark.parametrize("name", ["fcos-resnet18", "fcos-resnet50", "fcos-mobilenet"])
@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_every_backbone_trains(name: str, norm: str) -> None:
    detector = make(detector=name, fcos={"norm": norm, "width": 1.0})
    forward = detector(images(), targets([[10, 10, 60, 50]], []))
    assert set(forward.losses) == set(detector.loss_weights)
    sum(forward.losses.values()).backward()
    assert [tuple(level.shape[-2:]) for level in forward.pyramid] == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in detector.parameters() if p.requires_grad)


def test_the_seed_makes_the_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = make(), make(), make(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    weights = [
        detector.state_dict()["network.head.classification_head.conv.0.weight"] for detector in (one, same, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_it_learns_one_picture_by_heart() -> None:
    detector = make().train()
    shown = torch.full((1, 3, 64, 128), 60, dtype=torch.uint8)
    shown[:, :, 16:48, 24:72] = 220
    label = [Target(torch.tensor([[24.0, 16, 72, 48]]), torch.tensor([0]), torch.ones(1))]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(detector(shown, label).losses.values()).backward()
        optimizer.step()
    found = detector.found(detector(shown))[0]
    assert int(found.labels[0]) == 0
    assert found.boxes[0].tolist() == pytest.approx([24, 16, 72, 48], abs=5)
    assert float(found.scores[0]) > 0.4
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


def test_detections_are_inside_limited_and_above_the_score() -> None:
    detector = make(score=0.0, max_detections=7).eval()
    found = detector.found(detector(images()))
    assert all(len(one.boxes) <= 7 for one in found)
    for one in found:
        assert bool((one.boxes >= 0).all())
        assert bool((one.boxes[:, 2] <= 128).all())
        assert bool((one.boxes[:, 3] <= 64).all())
    detector.score = 0.99
    assert all(len(one.boxes) == 0 for one in detector.found(detector(images())))


def test_regions_of_labelled_objects() -> None:
    detector = make()
    label = targets([[10, 10, 60, 50], [100, 40, 104, 46]], [])
    forward = detector(images(), label)
    regions = detector.labelled_regions(forward, label, [Letterbox(0.5, 0, 0, 256, 128)] * 2)
    assert set(regions.labels.tolist()) == {0, 1}
    assert regions.features.shape[1] == 32
    assert set(regions.image_index.tolist()) == {0}
    assert regions.original_boxes()[regions.labels == 1][0].tolist() == pytest.approx([200, 80, 208, 92])
    detector.zero_grad()
    regions.quality.sum().backward(retain_graph=True)
    grad = detector.network.head.regression_head.bbox_ctrness.weight.grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0
    assert len(detector.labelled_regions(detector(images(1), targets([])), targets([]))) == 0


def test_regions_by_score() -> None:
    detector = make().eval()
    forward = detector(images())
    score = forward.outputs["logits"].sigmoid().amax(dim=2)
    middle = float(score.detach().median())
    regions = detector.scored_regions(forward, middle, middle - 1e-4)
    assert bool((regions.score[regions.labels >= 0] > middle).all())
    assert bool((regions.score[regions.labels < 0] < middle).all())
    assert int((regions.labels >= 0).sum()) == int((score > middle).sum())


def test_backbone_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    detector = make(fcos={"width": 1.0}, pretrained=str(tmp_path / "resnet18.pth"))
    assert torch.equal(detector.network.backbone.body.conv1.weight, network.conv1.weight)
    assert "resnet18.pth" in detector.loaded
    with pytest.raises(CheckpointError, match="does not fit fcos-resnet50"):
        make(detector="fcos-resnet50", fcos={"width": 1.0}, pretrained=str(tmp_path / "resnet18.pth"))
    with pytest.raises(CheckpointError, match="no such weight file"):
        make(pretrained=str(tmp_path / "nothing.pth"))
    with pytest.raises(CheckpointError, match="IMAGENET1K_V1"):
        make(pretrained="IMAGENET9K")


def test_a_whole_fcos_in_torchvisions_layout_loads(tmp_path: Path) -> None:
    source = make(seed=9)
    torch.save(source.network.state_dict(), tmp_path / "fcos.pth")
    detector = make(pretrained=str(tmp_path / "fcos.pth"))
    same = detector.network.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in source.network.state_dict().items())


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(CheckpointError, match=r"resnet18-.*\.pth.*--set pretrained=FILE"):
        make(pretrained="IMAGENET1K_V1")


def test_a_slim_resnet_is_small_and_only_a_resnet18_has_it() -> None:
    count = {w: sum(p.numel() for p in make(fcos={"width": w}).parameters()) for w in (0.25, 0.5, 1.0)}
    assert count[0.25] < count[0.5] / 2 < count[1.0] / 4
    with pytest.raises(ConfigError, match=r"fcos\.width below 1 is for fcos-resnet18"):
        make(detector="fcos-resnet50")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fcos-resnet18"):
        make(detector="fcos-resnet19")
    with pytest.raises(ConfigError, match="at least one class"):
        build_detector(build(DetectorSettings, TINY), ())


def test_bf16_gradients_of_a_map_one_pixel_wide_are_set() -> None:
    """torch's own are whatever lay in memory."""
    detector = make(width=64, height=128).train()
    target = Target(torch.tensor([[5.0, 5, 40, 40]]), torch.zeros(1, dtype=torch.long), torch.ones(1))
    weight = detector.network.backbone.fpn.extra_blocks.p7.weight
    for _ in range(10):
        detector.zero_grad()
        rubbish = [torch.full_like(weight, float("nan"), dtype=kind) for kind in (torch.float32, torch.bfloat16)] * 3
        del rubbish
        with torch.autocast("cpu", torch.bfloat16):
            forward = detector(torch.full((1, 3, 128, 64), 90, dtype=torch.uint8), [target])
        sum(forward.losses.values()).backward()
        assert weight.grad.isfinite().all()
