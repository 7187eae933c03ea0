"""CLIP on cropped regions: proposals named by a CLIP that was taught nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from tiny_openvocab import SETTINGS, rcnn
from torch import Tensor

from nightaug.cli import main
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.prompts import BACKGROUND, Prompts
from nightaug.clip.region_cache import RegionCache, Regions
from nightaug.detect.detectors import Detector, Forward, Found
from nightaug.detect.openvocab.crop_detector import MIN_SIDE, CropDetector
from nightaug.errors import ConfigError
from nightaug.images import write_image

BOXES = torch.tensor([[4.0, 4.0, 40.0, 30.0], [50.0, 10.0, 90.0, 44.0], [70.0, 50.0, 72.0, 60.0]])


class Finds(Detector):
    """Finds the same boxes everywhere."""

    name, classes, width, height, score, nms = "finds", ("object",), 96, 64, 0.0, 0.6

    def __init__(self, scores: tuple[float, ...] = (0.9, 0.5, 0.8)) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def run(self, images: Tensor) -> Forward:
        return Forward({}, [images.float()], {})

    def found(self, forward: Forward) -> list[Found]:
        order = self.scores.argsort(descending=True)
        numbers = torch.zeros(len(order), dtype=torch.long)
        return [Found(BOXES[order], self.scores[order], numbers) for _ in forward.pyramid[0]]


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder), precision="fp32")


def shown(seed: int = 0) -> tuple[Any, Tensor]:
    pixels = picture(seed, 96, 64)
    return pixels, torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def test_a_crop_is_embedded_as_in_the_store(clip: Clip, tmp_path: Path) -> None:
    pixels, image = shown()
    write_image(tmp_path / "a.png", pixels)
    cache = RegionCache.open(tmp_path / "cache", clip, 1.5, min_side=1.0)
    boxes = BOXES[:2].numpy()
    cache.fill([Regions(tmp_path / "a.png", boxes)], clip)
    kept = torch.from_numpy(cache.lookup(Regions(tmp_path / "a.png", boxes))[0].astype(np.float32))
    own = CropDetector(Finds(), clip, ["car"]).embed(image, BOXES[:2])
    assert torch.allclose(own, kept, atol=2e-3), "fp16 there"
    assert torch.allclose(own.norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_score_is_the_mean_of_objectness_and_clips_share(clip: Clip) -> None:
    _, image = shown()
    names = ["car", "motor", "bus", "motorcycle"]
    detector = CropDetector(Finds(), clip, names)
    assert detector.classes == ("car", "motorcycle", "bus"), "aliases are one class"
    (found,) = detector.found(detector(image[None]))
    text = Prompts(clip).embed([*detector.classes, BACKGROUND])
    shares = (clip.scale * detector.embed(image, BOXES[:2]) @ text.T).softmax(1)[:, :3]
    wanted = (torch.tensor([[0.9], [0.5]]) * shares).sqrt()
    assert len(found.boxes) == 6, "each class of each box; the third one is too narrow to look at"
    assert BOXES[2, 2] - BOXES[2, 0] < MIN_SIDE
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        row = int((box == BOXES).all(1).nonzero())
        assert score == pytest.approx(float(wanted[row, label]), abs=1e-5)
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


def test_no_proposal_is_no_detection_and_no_name_an_error(clip: Clip) -> None:
    _, image = shown()

    class Nothing(Finds):
        def found(self, forward: Forward) -> list[Found]:
            return [Found(BOXES[:0], torch.zeros(0), torch.zeros(0, dtype=torch.long)) for _ in forward.pyramid[0]]

    detector = CropDetector(Nothing(), clip, ["car"])
    found = detector.found(detector(torch.stack([image, image])))
    assert [len(each.boxes) for each in found] == [0, 0]
    with pytest.raises(ConfigError, match="at least one class"):
        CropDetector(Finds(), clip, [])


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(["openvocab", *(str(word) for word in words)])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


def test_proposals_are_named_from_the_command_line(
    capsys: pytest.CaptureFixture[str], streets: Path, proposer: Path, clip_folder: Path, tmp_path: Path
) -> None:
    images, out = streets / "val" / "A", tmp_path / "seen"
    words = ("predict", proposer, images, "--out", out, "--device", "cpu", "--score", 0)
    code, said, err = run(capsys, *words, "--classes", "ambulance,food cart", "--clip", clip_folder)
    assert code == 0, err
    assert "named by CLIP from their crops" in said
    assert (out / "labels" / "classes.txt").read_text() == "ambulance\nfood cart\n"
    assert {row["category_id"] for row in json.loads((out / "detections.json").read_text())} <= {1, 2}
    assert (out / "detections.json").stat().st_size > 100
    code, said, _ = run(capsys, *words, "--classes", "ambulance,food cart", "--clip", clip_folder)
    assert "were there" in said, "goes on where it was"
    made = json.loads((out / "predict.json").read_text())["weights_sha256"]
    assert made.endswith("+" + load_clip(str(clip_folder)).sha), "another CLIP's names are other predictions"
    code, _, err = run(capsys, *words, "--clip", clip_folder)
    assert code == 2
    assert "say what to look for" in err
    code, _, err = run(capsys, *words, "--classes", "ambulance")
    assert code == 2
    assert "add --clip MODEL:TAG" in err


def test_seen_and_unseen_classes_of_proposals_are_measured(
    capsys: pytest.CaptureFixture[str], streets: Path, proposer: Path, clip_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "crops.json"
    words = ("evaluate", proposer, streets, "--unseen", "traffic light", "--split", "val", "--out", file)
    code, said, err = run(capsys, *words, "--device", "cpu", "--clip", clip_folder)
    assert code == 0, err
    found = json.loads(file.read_text())
    assert found["split"]["unseen"] == ["traffic light"]
    assert "car" in found["split"]["seen"]
    assert found["supervised"] == ["traffic light"], "proposals of every labelled class' boxes"
    assert {row["category_id"] for row in json.loads(file.with_suffix(".zsd.json").read_text())} == {
        1 + len(found["split"]["seen"])
    }, "unseen classes come last, and compete alone"
    code, said, _ = run(capsys, *words, "--device", "cpu", "--clip", clip_folder)
    assert "used again" in said
    code, _, err = run(capsys, *words, "--device", "cpu")
    assert code == 2
    assert "add --clip MODEL:TAG" in err


def test_boxes_of_unseen_classes_make_a_ceiling(
    capsys: pytest.CaptureFixture[str], streets: Path, clip_folder: Path, tmp_path: Path
) -> None:
    from nightaug import __version__
    from nightaug.config import build, merge
    from nightaug.detect.checkpoint import write_detector
    from nightaug.detect.settings import DetectorSettings

    settings = build(
        DetectorSettings, merge(SETTINGS, {"rcnn": {"class_agnostic": True}, "classes": ["car", "traffic light"]})
    )
    write_detector(tmp_path / "p.safetensors", rcnn(class_agnostic=True), settings, 0, __version__)
    code, said, err = run(
        capsys, "evaluate", tmp_path / "p.safetensors", streets, "--unseen", "traffic light", "--split", "val",
        "--out", tmp_path / "m.json", "--clip", clip_folder, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "their places are supervised" in said
    assert json.loads((tmp_path / "m.json").read_text())["supervised"] == ["traffic light"]
