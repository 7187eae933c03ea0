from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from nightaug.config import build
from nightaug.detect.detectors import Target, build_detector
from nightaug.detect.detectors.base import Forward
from nightaug.detect.detectors.yolo import YOLODetector, export_pt
from nightaug.detect.detectors.yolo_files import read_checkpoint
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, ConfigError
from nightaug.losses import weighted_total

pytestmark = pytest.mark.skipif(
    find_spec("ultralytics") is None, reason="needs ultralytics (pip install nightaug[yolo])"
)

CLASSES = ("car", "pedestrian", "traffic light")
BOXES = [[8.0, 8, 40, 40], [60, 4, 120, 60], [70, 40, 76, 46]]


@pytest.fixture(autouse=True, scope="module")
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))


def make(name: str = "yolo11n", classes: tuple[str, ...] = CLASSES, **changes: object) -> YOLODetector:
    settings = build(DetectorSettings, {"detector": name, "width": 128, "height": 64} | changes)
    detector = build_detector(settings, classes)
    assert isinstance(detector, YOLODetector)
    return detector


def images(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 255, (count, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def target(boxes: list[list[float]] = BOXES, weights: list[float] | None = None, image: float = 1.0) -> Target:
    trusted = torch.tensor([1.0] * len(boxes) if weights is None else weights)
    return Target(torch.tensor(boxes).reshape(-1, 4), torch.arange(len(boxes)) % len(CLASSES), trusted, image)


def awake(detector: YOLODetector) -> YOLODetector:
    """Scores from 0.02 to 0.98, no two alike, instead of the 0.0001 everywhere that training starts from."""
    for norm in detector.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    layers = [branch[-1] for name, group in detector.head.named_children() if "cv3" in name for branch in group]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        detector.train()(images())
        for layer in layers:
            layer.weight.normal_()
            layer.bias.zero_()
        out = detector.eval()(images()).outputs
        highest = max(scores.abs().max() for scores in (out["scores"], (out["final"] or out)["scores"]))
        for layer in layers:
            layer.weight.mul_(6 / highest)
            layer.bias.fill_(-2.0)
    return detector


def own_outputs(forward: Forward) -> dict[str, object]:
    out = forward.outputs
    many = {"boxes": out["distances"], "scores": out["scores"], "feats": forward.pyramid}
    return {"one2many": many, "one2one": out["final"]} if out["final"] else many


def own_batch(targets: list[Target]) -> dict[str, torch.Tensor]:
    boxes = torch.cat([t.boxes for t in targets]) / torch.tensor([128.0, 64, 128, 64])
    return {
        "batch_idx": torch.cat([torch.full((len(t.boxes),), float(n)) for n, t in enumerate(targets)]),
        "cls": torch.cat([t.labels for t in targets]).float(),
        "bboxes": torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1),
    }


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "progress"), [("yolo11n", 0.0), ("yolov8n", 0.5), ("yolo26n", 0.0), ("yolo26n", 0.5)])
def test_with_weights_of_one_the_total_is_that_of_ultralytics(name: str, progress: float) -> None:
    detector = make(name).train()
    detector.progress = progress
    targets = [target(), target([]), target(BOXES[:1])]
    forward = detector(images(3), targets)
    reference = copy.deepcopy(detector.network)
    reference.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=11)
    criterion = reference.init_criterion()
    for _ in range(round(progress * 10) if name == "yolo26n" else 0):
        criterion.update()  # ultralytics does so after each of its epochs, here 11
    expected = criterion(own_outputs(forward), own_batch(targets))[0].sum() / 3
    total = weighted_total(forward.losses, detector.loss_weights)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(forward.losses) == ({"box", "cls", "l1"} if name == "yolo26n" else {"box", "cls", "dfl"})


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n", "yolov5nu"])
def test_any_number_of_boxes_trains(name: str) -> None:
    detector = make(name).train().to(memory_format=torch.channels_last)
    nothing, one, ignored = target([]), target(BOXES[:1]), target(weights=[0.0] * 3)
    for targets, half in (([nothing], True), ([one], False), ([nothing, target()], True), ([ignored], False)):
        detector.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            forward = detector(images(len(targets)), targets)
        assert all(value.dtype == torch.float32 for value in forward.losses.values())
        weighted_total(forward.losses, detector.loss_weights).backward()
        trained = [p for p in detector.parameters() if p.requires_grad]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_half_an_image_twice_counts_as_one(name: str) -> None:
    detector = awake(make(name))
    one, two = images(2).split(1)
    a, b = target(BOXES[:2]), target(BOXES[1:])
    whole = detector(torch.cat([one, one, two]), [a, a, b]).losses
    b.image_weight = 0.5
    weighted = detector(torch.cat([one, two]), [a, b]).losses
    for key, value in whole.items():
        assert weighted[key].item() == pytest.approx(value.item(), rel=1e-4)


def test_half_a_label_has_half_a_share_of_the_losses() -> None:
    detector = awake(make())
    one, two = images(2).split(1)
    whole = detector(torch.cat([one, one, two]), [target(BOXES[:2])] * 2 + [target(BOXES[1:])])
    half = detector(torch.cat([one, two]), [target(BOXES[:2]), target(BOXES[1:], [0.5, 0.5])])
    for key in ("box", "dfl"):
        assert half.losses[key].item() == pytest.approx(whole.losses[key].item(), rel=1e-4)
    half.outputs["scores"].retain_grad()
    half.losses["cls"].backward()
    full = detector(torch.cat([one, two]), [target(BOXES[:2]), target(BOXES[1:])])
    full.outputs["scores"].retain_grad()
    full.losses["cls"].backward()
    index = half.assignment.served
    ratio = half.outputs["scores"].grad.norm(dim=1) / full.outputs["scores"].grad.norm(dim=1)
    trusted, doubted, nothing = ratio[0][index[0] >= 0], ratio[1][index[1] >= 0], ratio[1][index[1] < 0]
    assert (doubted * 2 / trusted.mean()).tolist() == pytest.approx([1.0] * len(doubted), rel=1e-3)
    assert (nothing / trusted.mean()).tolist() == pytest.approx([1.0] * len(nothing), rel=1e-3)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_a_label_of_weight_zero_is_neither_object_nor_background(name: str) -> None:
    detector = awake(make(name))
    labels = target([[8, 8, 40, 40], [20, 8, 44, 40], [100, 20, 103, 23]], [1.0, 0.0, 0.0])
    forward = detector(images(1), [labels])
    raw = [forward.outputs["scores"], *([forward.outputs["final"]["scores"]] if forward.outputs["final"] else [])]
    for scores in raw:
        scores.retain_grad()
    weighted_total(forward.losses, detector.loss_weights).backward()
    index, at = forward.assignment.served[0], detector._anchors(forward).points
    assert set(index.tolist()) == {-1, 0}
    inside = ((at > torch.tensor([20, 8])) & (at < torch.tensor([44, 40]))).all(dim=1)
    tiny = ((at - torch.tensor([101.5, 21.5])).abs() < 8).all(dim=1)
    assert inside.any()
    assert tiny.any()
    for number, scores in enumerate(raw):
        silent = scores.grad[0].abs().sum(dim=0) == 0
        assert silent[tiny].all()
        assert not silent[~inside & ~tiny].any()
        if number == 0:
            assert silent[inside & (index < 0)].all()
            assert not silent[index == 0].any()


# -- detections and regions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolo11n", "yolov8n", "yolo26n"])
def test_it_finds_what_ultralytics_finds(name: str) -> None:
    detector = awake(make(name, score=0.05, nms=0.5, max_detections=40))
    forward = detector(images())
    from ultralytics.utils.nms import non_max_suppression

    detector.head.max_det = 40
    detector.network.end2end = name == "yolo26n"
    shown = (images() / 255).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = non_max_suppression(
            detector.network(shown)[0], 0.05, 0.5, multi_label=True, max_det=40, end2end=name == "yolo26n"
        )
    for own, theirs in zip(detector.found(forward), expected, strict=True):
        box = theirs[:, :4].clamp(min=0).minimum(torch.tensor([128.0, 64, 128, 64]))
        kept = ((box[:, 2:] - box[:, :2]) > 0.5).all(dim=1)
        assert len(own.boxes) == int(kept.sum()) > 5
        assert torch.allclose(own.scores, theirs[kept, 4], atol=1e-5)
        assert torch.allclose(own.boxes, box[kept], atol=1e-2)
        assert torch.equal(own.labels, theirs[kept, 5].long())


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_training_and_evaluation_show_the_same_outputs(name: str) -> None:
    detector = make(name, score=0.0).eval()
    forward = detector(images(1), [target()])
    assert set(forward.losses) == set(detector.loss_weights)
    assert not detector.head.training
    with torch.inference_mode():
        detector(images(1))
    detector(images(1), [target()]).losses["box"].backward()  # nothing of the inference pass was kept


@pytest.mark.parametrize("name", ["yolo11n", "yolov8n", "yolo26n"])
def test_labelled_regions_are_the_assigned_anchors(name: str) -> None:
    detector = make(name).train()
    targets = [target([]), target(BOXES, [0.0, 1.0, 0.5])]
    forward = detector(images(), targets)
    regions = detector.labelled_regions(forward, targets)
    assert set(regions.image_index.tolist()) == {1}
    assert {tuple(box) for box in regions.boxes.tolist()} == {tuple(box) for box in BOXES[1:]}
    assert set(regions.labels.tolist()) == {1, 2}
    assert regions.features.shape[1] == 64
    points = detector._anchors(forward).points
    index = forward.assignment.served
    assert len(regions) == int((index >= 0).sum())
    for box, at in zip(regions.boxes, points[(index[1] >= 0).nonzero().squeeze(1)], strict=True):
        middle = (box[:2] + box[2:]) / 2
        assert ((at - middle).abs() < ((box[2:] - box[:2]) / 2).clamp(min=8)).all()
    # What the features say is what the scores are made of: the last layer on them gives the quality.
    first = regions.level == 0
    layer = detector.head.cv3[0][-1]
    scores = (regions.features[first] @ layer.weight[:, :, 0, 0].T + layer.bias).sigmoid()
    assert torch.allclose(scores.gather(1, regions.labels[first][:, None])[:, 0], regions.quality[first], atol=1e-6)
    (regions.quality.sum() + regions.features.sum()).backward()
    assert detector.network.model[0].conv.weight.grad.abs().sum() > 0


def test_scored_regions_split_at_the_two_thresholds() -> None:
    detector = awake(make())
    forward = detector(images())
    regions = detector.scored_regions(forward, 0.3, 0.125)
    background = regions.labels == -1
    assert background.any()
    assert (~background).any()
    assert regions.score[background].max() < 0.125
    assert regions.score[~background].min() > 0.3
    assert torch.allclose(regions.quality.detach(), regions.score)
    assert regions.quality.requires_grad


# -- weights and files ---------------------------------------------------------------------------------------------


def test_the_seed_makes_the_weights_and_copies_stand_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = make(), make(), make(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    key = "network.model.0.conv.weight"
    assert torch.equal(one.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])
    assert all(isinstance(value, torch.Tensor) for value in one.state_dict().values())
    twin = copy.deepcopy(one)
    with torch.no_grad():
        twin.network.model[0].conv.weight.zero_()
    assert one.state_dict()[key].abs().sum() > 0
    assert not torch.equal(one.eval()(images()).pyramid[0], twin.eval()(images()).pyramid[0])


def test_a_detector_from_a_file_is_built_again_without_it(tmp_path: Path) -> None:
    path = tmp_path / "yolov8n-mine.yaml"
    architecture = make("yolov8n").facts["architecture"]
    architecture["activation"] = "nn.ReLU()"
    path.write_text(json.dumps(architecture))  # JSON is YAML
    first = make(str(path))
    path.unlink()
    settings = build(DetectorSettings, {"detector": str(path), "width": 128, "height": 64})
    with pytest.raises(ConfigError, match=r"yolov8n-mine\.yaml"):
        YOLODetector(settings, CLASSES, False)
    again = YOLODetector(settings, CLASSES, False, json.loads(json.dumps(first.facts)))
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.eval()(images()).pyramid[2], first.eval()(images()).pyramid[2])
    assert isinstance(again.network.model[0].act, torch.nn.ReLU)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_an_exported_checkpoint_is_one_of_ultralytics(name: str, tmp_path: Path) -> None:
    # One class: of several, its predictor gives each place the best one only.
    detector = awake(make(name, ("car",), score=0.05, nms=0.5, max_detections=40)).to(memory_format=torch.channels_last)
    export_pt(detector, tmp_path / "shared.pt")
    from ultralytics import YOLO

    model = YOLO(str(tmp_path / "shared.pt"))
    assert model.names == {0: "car"}
    shown = images(1)
    free = {"nms": False} if name == "yolo26n" else {"iou": 0.5}
    theirs = model.predict(shown / 255, conf=0.05, max_det=40, verbose=False, save=False, **free)[0].boxes
    own = detector.found(detector(shown))[0]
    assert len(theirs) == len(own.boxes) > 5
    assert torch.allclose(theirs.conf, own.scores, atol=1e-3)
    assert torch.allclose(theirs.xyxy, own.boxes, atol=0.1)
    assert b"nightaug" not in (tmp_path / "shared.pt").read_bytes()
    again = make(str(tmp_path / "shared.pt"), ("car",))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in detector.state_dict().items())


def test_another_detector_is_not_written_as_one_of_ultralytics(tmp_path: Path) -> None:
    settings = build(DetectorSettings, {"detector": "fcos-mobilenet", "width": 128, "height": 64, "pretrained": None})
    with pytest.raises(ConfigError, match=r"fcos-mobilenet is no YOLO.*share the run's last.safetensors"):
        export_pt(build_detector(settings, CLASSES, pretrained=False), tmp_path / "night.pt")
    assert not (tmp_path / "night.pt").exists()


def test_weights_of_other_classes_give_what_fits(tmp_path: Path) -> None:
    export_pt(make(classes=tuple(f"class {n}" for n in range(80)), seed=3), tmp_path / "coco.pt")
    detector = make(pretrained=str(tmp_path / "coco.pt"))
    source = read_checkpoint(tmp_path / "coco.pt")[0]
    own = detector.network.state_dict()
    assert torch.equal(own["model.0.conv.weight"], source["model.0.conv.weight"])
    assert own["model.23.cv3.0.2.weight"].shape[0] == len(CLASSES)
    assert "starts anew" in detector.loaded
    save_file({key: value.clone() for key, value in source.items()}, tmp_path / "coco.safetensors")
    assert make(pretrained=str(tmp_path / "coco.safetensors")).loaded.split(":")[1] == detector.loaded.split(":")[1]
    with pytest.raises(CheckpointError, match="same family and size"):
        make("yolov8s", pretrained=str(tmp_path / "coco.pt"))


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trap",)


class _Builtin:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('os').mkdir('trap')",)


@pytest.mark.parametrize("trap", [_Trap(), _Builtin()])
def test_code_in_a_checkpoint_is_never_run(trap: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": trap, "ema": None}, "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt") as caught:
        make("evil.pt")
    assert "torch.load" not in str(caught.value)  # torch's advice would be to run it
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "__import__('os').mkdir('trap')"}, "activation"),
        ({"backbone": [[-1, 1, "torch_safe_load", ["x.pt"]]]}, "torch_safe_load"),
        ({"backbone": [[-1, 1, "TorchVision", [512, "resnet18"]]]}, "TorchVision"),
        ({"head": [[[4], 1, "Segment", ["nc"]]]}, "no detector"),
        ({"head": None}, "no YOLO architecture"),
        ({"head": [[[99], 1, "Detect", ["nc"]]]}, "cannot be built"),
    ],
)
def test_an_architecture_may_name_layers_only(
    change: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(json.dumps(make("yolov8n").facts["architecture"] | change))
    with pytest.raises(ConfigError, match=said):
        make("net.yaml")
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("yolo99n", None, "unknown detector"),
        ("yolo11q", None, "unknown detector"),
        ("gone.pt", None, "no such file"),
        ("yolo11n", "IMAGENET1K_V1", "auto"),
        ("yolo11n", "gone.pt", "no such file"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(name: str, pretrained: str | None, said: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=said) as caught:
        make(name, pretrained=pretrained)
    assert "\n" not in str(caught.value)


def test_a_failed_download_names_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(url: str, *args: object, **named: object) -> None:
        assert url.endswith("/yolov5nu.pt")
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CheckpointError, match=r"yolov5nu\.pt cannot be downloaded.*pretrained=null"):
        make("yolov5n", pretrained="auto")
    export_pt(make("yolov5n", seed=5), tmp_path / "checkpoints" / "yolov5nu.pt")  # put there by hand
    assert make("yolov5nu", pretrained="auto").loaded.startswith("yolov5nu.pt: ")


def test_without_ultralytics_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ultralytics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ConfigError, match=r"pip install 'nightaug\[yolo\]'"):
        make()


PROBE = """
import os, socket, sys
def refuse(*args, **named):
    raise SystemExit("asked the network")
socket.getaddrinfo = socket.socket.connect = refuse
import cv2, PIL.Image, torch
cv2.setNumThreads(3)
before = (torch.save, cv2.getNumThreads(), dict(os.environ), PIL.Image.open)
from nightaug.config import build
from nightaug.detect.detectors import build_detector
from nightaug.detect.settings import DetectorSettings
build_detector(build(DetectorSettings, {"detector": "yolo11n"}), ("car",))
changed = {key for key in os.environ if os.environ[key] != before[2].get(key)}
print(torch.save is before[0], cv2.getNumThreads() == before[1], "OMP_NUM_THREADS" in changed)
print(PIL.Image.open is before[3])  # theirs asks for another package as soon as a file is no image
"""


def test_importing_ultralytics_leaves_no_traces(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO", "OMP", "XDG"))}
    env = kept | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run([sys.executable, "-c", PROBE], cwd=work, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["True", "True", "False", "True"]
    assert not list(work.iterdir())
    assert {path.name for path in home.iterdir()} <= {".cache"}
