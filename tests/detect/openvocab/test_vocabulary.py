"""Other classes, and fewer, for a trained detector."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from street import TINY
from tiny_openvocab import EMBEDDING, rcnn, write_detector_file

from nightaug.clip.encoder import load_clip
from nightaug.clip.prompts import Prompts
from nightaug.config import build
from nightaug.detect.checkpoint import load_detector, read_facts
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.openvocab.vocabulary import (
    lasting_clip,
    load_text,
    name_classes,
    narrow,
    taught,
    write_with_classes,
)
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError

CLASSES = ("car", "bus", "truck", "train")
FACTS: dict[str, Any] = {"embedding": EMBEDDING}


def unit(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, EMBEDDING, generator=torch.manual_seed(seed)), dim=1)


def detector(head: str, novel: int = 0) -> Detector:
    facts = FACTS | ({"novel": list(CLASSES[len(CLASSES) - novel :])} if novel else {})
    made = rcnn(CLASSES, facts, head=head)
    if head != "softmax":
        made.set_classes(CLASSES, unit(len(CLASSES)))  # type: ignore[operator]
    torch.manual_seed(3)
    for parameter in made.head.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.5)
    return made


FEATURES, OBJECTNESS = torch.randn(9, 32, generator=torch.manual_seed(1)), torch.linspace(0.1, 1, 9)


def scores(made: Detector) -> torch.Tensor:
    result: torch.Tensor = made.head.scores(FEATURES, OBJECTNESS).detach()  # type: ignore[union-attr,operator]
    return result


@pytest.mark.parametrize("head", ["softmax", "vild"])
def test_fewer_classes_share_the_softmax_of_all_of_them(head: str) -> None:
    made = detector(head)
    before = scores(made)
    narrow(made, ["train", "bus", "bus"])
    assert made.classes == ("bus", "train"), "in the detector's order"
    # Background keeps its place: p_i / (sum of those left + background).
    background = 1 - before.sum(1, keepdim=True)
    kept = before[:, [1, 3]]
    assert torch.allclose(scores(made), kept / (kept.sum(1, keepdim=True) + background), atol=1e-5)


def test_fewer_classes_of_lp_ovod() -> None:
    made = detector("lp-ovod", novel=2)
    before = scores(made)
    space, head = made.head.space, made.head  # type: ignore[union-attr]
    clip = (space(FEATURES) @ space.text.T / head.settings.temperature).softmax(1).detach()  # type: ignore[operator]
    share = 1 - head.settings.b  # type: ignore[union-attr]
    narrow(made, CLASSES[2:])
    assert made.classes == CLASSES[2:]
    # sqrt(c^(1-b) s^b o) with CLIP's softmax over the two alone.
    factor = clip[:, 2:].sum(1, keepdim=True) ** (-share / 2)
    assert torch.allclose(scores(made), before[:, 2:] * factor, rtol=1e-3)
    base = detector("lp-ovod", novel=2)
    narrow(base, ["bus", "truck"])
    assert scores(base).shape == (9, 2)
    assert torch.allclose(scores(base)[:, 0], before[:, 1], rtol=1e-4), "a = 0: base classes do not look at CLIP"


def test_all_classes_change_nothing_and_unknown_ones_are_refused() -> None:
    made = detector("vild")
    before = scores(made)
    narrow(made, CLASSES)
    assert torch.equal(scores(made), before)
    with pytest.raises(ConfigError, match=r"knows no zebra; it knows car, bus, truck, train"):
        narrow(made, ["zebra", "car"])
    one_stage = build_detector(build(DetectorSettings, TINY), CLASSES)
    narrow(one_stage, ["car"])
    assert one_stage.classes == CLASSES


def test_any_names_for_a_detector_that_reads_text(tmp_path: Path, clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder), precision="fp32")
    made = detector("vild")
    name_classes(made, ["Ambulance", "person"], clip)
    assert made.classes == ("ambulance", "pedestrian")
    assert torch.allclose(made.head.space.text, Prompts(clip).embed(["ambulance", "person"]), atol=1e-6)  # type: ignore
    with pytest.raises(ConfigError, match=r"knows car, bus, truck, train and no other classes: teach"):
        name_classes(detector("softmax"), ["ambulance"], clip)

    facts = FACTS | {"clip": str(clip_folder), "clip_sha": clip.sha}
    first = rcnn(CLASSES, facts, head="vild")
    first.set_classes(CLASSES, unit(4))  # type: ignore[operator]
    run = write_detector_file(tmp_path / "run.safetensors", CLASSES, facts, first, head="vild")
    for name in ("a", "b"):
        known = write_with_classes(run, ["ambulance", "food cart"], tmp_path / f"{name}.safetensors")
        assert known == ("ambulance", "food cart")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_detector(tmp_path / "a.safetensors")
    assert loaded.classes == ("ambulance", "food cart")
    assert read_facts(tmp_path / "a.safetensors")["facts"]["clip_sha"] == clip.sha
    with pytest.raises(ConfigError, match="no other classes"):
        write_with_classes(write_detector_file(tmp_path / "s.safetensors", ("car", "bus")), ["x"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    write_with_classes(run, ["tram"], tmp_path / "a.safetensors")  # its own are written over
    assert taught(read_facts(tmp_path / "a.safetensors")) == CLASSES
    trained = run.read_bytes()
    with pytest.raises(ConfigError, match="not made; choose another --out"):
        write_with_classes(run, ["tram"], run)
    assert run.read_bytes() == trained


def test_which_boxes_taught_a_detector() -> None:
    facts: dict[str, Any] = {"settings": {"classes": None}, "classes": ["car", "motor"]}
    assert taught(facts) == ("car", "motorcycle")
    assert taught({**facts, "facts": {"novel": ["motor"]}}) == ("car",)
    assert taught({**facts, "settings": {"classes": ["person"]}}) == ("pedestrian",)
    assert taught({**facts, "settings": {"classes": None, "rcnn": {"class_agnostic": True}}}) is None


def test_which_clip(tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="add --clip MODEL:TAG"):
        load_text({})
    with pytest.raises(ConfigError, match=r"another CLIP than the one it was trained with \(ViT\)"):
        load_text({"clip": "ViT", "clip_sha": "0"}, str(clip_folder))
    assert load_text({"clip": str(clip_folder)}).width == EMBEDDING
    monkeypatch.chdir(clip_folder.parent)
    assert lasting_clip(clip_folder.name) == str(clip_folder)
    assert lasting_clip(f"local-dir:{clip_folder.name}") == f"local-dir:{clip_folder}"
    assert lasting_clip("ViT-B-32:openai") == "ViT-B-32:openai"
    assert os.path.isabs(lasting_clip(clip_folder.name))
