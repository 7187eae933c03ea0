"""``nightaug openvocab`` from training proposals to pictures of classes nobody labelled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from openvocab_toys import interrupt_when
from street import interrupted_in
from tiny_openvocab import EMBEDDING, SETTINGS

from nightaug.cli import main
from nightaug.clip.encoder import load_clip
from nightaug.clip.prompts import Prompts
from nightaug.config import flatten
from nightaug.detect.checkpoint import load_detector, read_facts
from nightaug.detect.openvocab import probe, synthesize
from nightaug.runs import load_weights

WORDS = [f"--set={key}={json.dumps(value)}" for key, value in flatten(SETTINGS).items() if key != "detector"]
HELD = ("--unseen", "traffic light")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(["openvocab", *(str(word) for word in words)])
    out = capsys.readouterr()
    return int(exit.value.code or 0), out.out, out.err


def train(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *words: object) -> tuple[int, str, str]:
    return run(
        capsys, "train", data, "--out", out, "--detector", "faster-rcnn-resnet18", "--cpu", *WORDS, *HELD, *words
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, streets: Path, clip_folder: Path) -> Path:
    """Proposals of a class-agnostic detector trained on cars, with embeddings."""
    out = tmp_path_factory.mktemp("embedded")
    common = ["--detector", "faster-rcnn-resnet18", "--cpu", *WORDS, *HELD]
    for words in (
        ["train", streets, "--out", out / "proposer", "--method", "proposals", *common],
        ["embed", streets, "--out", out / "emb", "--proposals", out / "proposer", "--clip", clip_folder, "--most", 9],
    ):
        with pytest.raises(SystemExit) as exit:
            main(["openvocab", *(str(word) for word in words)])
        assert not exit.value.code
    return out


def test_the_proposal_network_learns_one_class_from_the_seen_ones(embedded: Path) -> None:
    facts = read_facts(embedded / "proposer" / "last.safetensors")
    assert facts["classes"] == ["object"]
    assert facts["settings"]["classes"] == ["car"], "no box of a traffic light was looked at"
    state = json.loads((embedded / "emb" / "store.json").read_text())
    assert state["stage"] == "detections"
    assert state["images"] == 8
    assert 0 < state["boxes"] <= 72


def test_vild_learns_that_a_box_is_none_of_the_rivals(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path
) -> None:
    words = ("--method", "vild", "--embeddings", embedded / "emb", "--steps", 1, "--set", "log_every=1")
    assert train(capsys, streets, tmp_path / "plain", *words)[0] == 0
    code, _, err = train(capsys, streets, tmp_path / "own", *words, "--set", "rcnn.vild.rivals=[tree, signal]")
    assert code == 0, err
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("plain", "own")]
    assert losses[1]["text"] > losses[0]["text"]
    assert losses[1]["image"] == losses[0]["image"]
    code, _, err = train(capsys, streets, tmp_path / "both", *words, "--set", "rcnn.vild.rivals=[tree, Car]")
    assert code == 2
    assert "car is trained on" in err


def test_vild_from_training_to_pictures(
    capsys: pytest.CaptureFixture[str],
    streets: Path,
    embedded: Path,
    tmp_path: Path,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = ("--embeddings", embedded / "emb")
    code, out, err = train(capsys, streets, tmp_path / "vild", "--method", "vild", *store)
    assert code == 0, err
    assert "1 classes: car" in out
    assert "embeddings: " in out
    assert "estimate:" in out
    assert "next: nightaug openvocab predict" in out
    rows = [json.loads(line) for line in (tmp_path / "vild" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["text"] > 0 and row["image"] > 0 for row in rows if "image" in row)
    assert any("image" in row for row in rows)
    detector = load_detector(tmp_path / "vild")
    clip = load_clip(str(clip_folder), precision="fp32")
    text = detector.head.space.text  # type: ignore[union-attr]
    assert torch.allclose(text, Prompts(clip).embed(["car"]), atol=1e-5)
    assert detector.facts["embedding"] == EMBEDDING
    assert os.path.samefile(detector.facts["clip"], clip_folder)

    metrics = tmp_path / "metrics.json"
    code, out, err = run(
        capsys, "evaluate", tmp_path / "vild", streets, *HELD, "--split", "val", "--out", metrics, "--device", "cpu"
    )
    assert code == 0, err
    assert "| AP50" in out
    found = json.loads(metrics.read_text())
    assert found["split"]["unseen"] == ["traffic light"]
    assert all(row["boxes"] > 0 for row in found["per_class"].values())

    code, out, err = run(
        capsys, "predict", tmp_path / "vild", streets / "val" / "A", "--out", tmp_path / "seen", "--classes",
        "ambulance, food cart", "--device", "cpu", "--score", 0,
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "seen" / "labels" / "classes.txt").read_text() == "ambulance\nfood cart\n"
    assert json.loads((tmp_path / "seen" / "detections.json").read_text())
    assert load_detector(tmp_path / "seen.safetensors").classes == ("ambulance", "food cart")
    again = run(
        capsys, "predict", tmp_path / "vild", streets / "val" / "A", "--out", tmp_path / "seen", "--classes",
        "ambulance,food cart", "--device", "cpu", "--score", 0,
    )  # fmt: skip
    assert "were there" in again[1]
    code, _, err = run(
        capsys, "predict", tmp_path / "vild", streets / "val" / "A", "--out", tmp_path / "seen", "--classes", "tram",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 2
    assert "another detector" in err
    dry = run(
        capsys, "predict", tmp_path / "vild", streets / "val" / "A", "--out", tmp_path / "dry", "--classes", "tram",
        "--dry-run",
    )  # fmt: skip
    assert "would look for tram" in dry[1]
    assert not list(tmp_path.glob("dry*"))
    # The folder one stands in has a name, too.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = run(
        capsys, "predict", tmp_path / "vild", streets / "val" / "A", "--out", ".", "--classes", "tram", "--limit", 1,
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert load_detector(tmp_path / "here.safetensors").classes == ("tram",)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path
) -> None:
    words = ("--method", "vild", "--embeddings", embedded / "emb")
    assert train(capsys, streets, tmp_path / "whole", *words)[0] == 0
    with interrupted_in(1):
        code, out, _ = train(capsys, streets, tmp_path / "halves", *words)
    assert code == 1
    assert "run the same command with --resume" in out
    # Settings are the folder's; only what is no setting is said again.
    code, _, err = run(capsys, "train", streets, "--out", tmp_path / "halves", "--cpu", "--resume", *words)
    assert code == 0, err
    whole, halves = (load_weights(tmp_path / name / "last.safetensors")[0] for name in ("whole", "halves"))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_another_store_is_another_run(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path, clip_folder: Path
) -> None:
    words = ("--method", "vild", "--embeddings")
    with interrupted_in(1):
        assert train(capsys, streets, tmp_path / "vild", *words, embedded / "emb")[0] == 1
    code, _, err = run(
        capsys, "embed", streets, "--out", tmp_path / "other", "--proposals", embedded / "proposer", "--clip",
        clip_folder, "--most", 3,
    )  # fmt: skip
    assert code == 0, err
    code, _, err = train(capsys, streets, tmp_path / "vild", *words, tmp_path / "other", "--resume")
    assert code == 2
    assert "--resume with other --embeddings" in err
    assert "most" in err
    # Its proposals were made without boxes of traffic lights, but with those of cars.
    code, out, err = run(
        capsys, "train", streets, "--out", tmp_path / "cars", "--detector", "faster-rcnn-resnet18", "--cpu", *WORDS,
        "--unseen", "car", *words, tmp_path / "other", "--dry-run",
    )  # fmt: skip
    assert code == 0, err
    assert "made with boxes of car, too" in out


def test_lp_ovod_is_probed_for_a_class_without_boxes(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path
) -> None:
    store = ("--embeddings", embedded / "emb")
    code, out, err = train(capsys, streets, tmp_path / "base", "--method", "lp-ovod", *store)
    assert code == 0, err
    assert "next: nightaug openvocab probe" in out
    words = ("probe", tmp_path / "base", "--out", tmp_path / "probed", *store, *HELD, "--device", "cpu")
    more = ("--set", "proposals=5", "--set", "epochs=2")
    code, out, err = run(capsys, *words, *more, "--set", "objectness=1")
    assert code == 2
    assert "lower --set objectness" in err
    with pytest.MonkeyPatch.context() as patch:  # the same command as it was told
        interrupt_when(patch, probe, "assign_proposals", 1)
        code, out, err = run(capsys, *words, *more, "--set", "objectness=0")
    assert code == 1, err
    assert "run the same command with --resume" in out
    code, out, err = run(capsys, *words, "--resume")  # the settings are the folder's
    assert code == 0, err
    assert "epochs: 2" in (tmp_path / "probed" / "config.yaml").read_text()
    code, out, err = run(capsys, *words, "--resume", "--set", "epochs=3")
    assert code == 2
    assert "probe.epochs was 2, is 3" in err
    assert read_facts(tmp_path / "probed" / "last.safetensors")["classes"] == ["car", "traffic light"]
    code, out, err = run(
        capsys, "evaluate", tmp_path / "probed", streets, *HELD, "--split", "val", "--out", tmp_path / "m.json",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert set(json.loads((tmp_path / "m.json").read_text())["per_class"]) == {"car", "traffic light"}


def test_vldus_synthesizes_a_class_without_boxes(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path, clip_folder: Path
) -> None:
    code, out, err = train(capsys, streets, tmp_path / "seen", "--method", "vldus")
    assert code == 0, err
    assert "next: nightaug openvocab synthesize" in out
    tiny = {
        "noise": 8, "generator": 16, "critic": 16, "critic_feature": 8, "epochs": 1, "synthetic": 8,
        "classifier_epochs": 1, "unseen_epochs": 1, "foreground": 0.3,
    }  # fmt: skip
    words = [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]
    command = (
        "synthesize", tmp_path / "seen", streets, "--out", tmp_path / "both", *HELD, "--embeddings", embedded / "emb",
        "--device", "cpu", "--batch", 2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        interrupt_when(patch, synthesize, "seen_regions", 1)
        code, out, err = run(capsys, *command, *words)
    assert code == 1, err
    code, out, err = run(capsys, *command, "--resume")  # the settings are the folder's
    assert code == 0, err
    assert read_facts(tmp_path / "both" / "last.safetensors")["classes"] == ["car", "traffic light"]
    code, out, err = run(
        capsys, "predict", tmp_path / "both", streets / "val" / "A", "--out", tmp_path / "p", "--classes",
        "traffic light", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert not (tmp_path / "p.safetensors").exists(), "it knows the class by itself"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "vild"], "--embeddings FOLDER"),
        (["--method", "proposals", "--embeddings", "x"], "proposals does not look at them"),
        (["--method", "vild", "--embeddings", "absent"], "holds no embeddings"),
        (["--method", "vldus", "--detector", "fcos-resnet18"], "need a two-stage one"),
        (["--method", "vldus", "--class-split", "coco_48_17"], "either with --unseen"),
        (["--method", "vldus", "--steps", 3, "--epochs", 3], "not both"),
        (["--method", "vldus", "--drop-unseen-images"], "every training image shows traffic light"),
        (["--method", "vldus", "--preset", "demo"], "says nothing of this command"),
        (["--method", "vldus", "--set", "rcnn.foo=1"], "Unknown key: 'rcnn.foo'"),
    ],
)
def test_mistakes_get_one_line(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path, words: list[Any], expected: str
) -> None:
    code, _, err = run(capsys, "train", streets, "--out", tmp_path / "run", "--cpu", *WORDS, *HELD, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_images_of_unseen_classes_can_be_left_out(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(streets, tmp_path / "data")
    file = next((data / "annotations").glob("*train*A*"))
    content = json.loads(file.read_text())
    lamp = next(row["id"] for row in content["categories"] if row["name"] == "traffic light")
    first = content["images"][0]["id"]
    content["annotations"] = [
        row for row in content["annotations"] if row["image_id"] != first or row["category_id"] != lamp
    ]
    file.write_text(json.dumps(content))
    words = ("--method", "vldus", "--data", "dataset:train:A", "--drop-unseen-images")
    code, out, err = train(capsys, data, tmp_path / "run", *words)
    assert code == 0, err
    assert "1 images" in out
    assert "show traffic light and are left out" in out
    assert read_facts(tmp_path / "run" / "last.safetensors")["settings"]["exclude"] == ["traffic light"]
    code, _, err = run(capsys, "train", data, "--out", tmp_path / "x", *words, "--detector", "faster-rcnn-resnet18")
    assert code == 2
    assert "say which classes are unseen" in err


def test_embeddings_of_other_images_are_refused(
    capsys: pytest.CaptureFixture[str], streets: Path, embedded: Path, tmp_path: Path
) -> None:
    code, _, err = train(
        capsys, streets, tmp_path / "run", "--method", "vild", "--embeddings", embedded / "emb", "--data",
        "dataset:val:all",
    )  # fmt: skip
    assert code == 2
    assert "training images" in err
    assert "embed with the same --data" in err
