from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from street import TINY

from nightaug.cli import main
from nightaug.clip.fill import fill
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.config import build
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.data.formats import open_dataset
from nightaug.detect.checkpoint import load_detector, read_facts
from nightaug.detect.recipe import gather
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError, DatasetError
from nightaug.runs import RunFolder, StopRequest

CLIP = TinySettings(size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1)
WORDS = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items() if key not in {"detector", "fcos"}]
WORDS += [f"--set=fcos.{key}={value}" for key, value in TINY["fcos"].items()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, build_tiny(CLIP), CLIP)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    out = capsys.readouterr()
    return int(exit.value.code or 0), out.out, out.err


def train(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *words: object) -> tuple[int, str, str]:
    return run(capsys, "train-detector", data, "--out", out, "--detector", "fcos-resnet18", "--cpu", *WORDS, *words)


def test_train_resume_and_start_from(capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path) -> None:
    code, out, _ = train(capsys, streets, tmp_path / "run", "--data", "dataset:train:A", "--classes", "car")
    assert code == 0
    assert "estimate:" in out
    assert "6 day, 0 night" in out or "day, 0 night" in out
    assert load_detector(tmp_path / "run").classes == ("car",)
    # Everything else is known from the folder.
    code, out, _ = run(capsys, "train-detector", streets, "--out", tmp_path / "run", "--resume", "--steps", 6, "--cpu")
    assert code == 0
    assert "finished at step 6" in out
    assert read_facts(tmp_path / "run" / "last.safetensors")["step"] == 6
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    again = ("--out", tmp_path / "run", "--resume", "--steps", 5, "--cpu")
    code, out, err = run(capsys, "train-detector", streets, *again)
    assert code == 0, err
    assert "nothing was left to do at step 6" in out
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before  # what no step was made with is not recorded
    code, _, err = train(capsys, streets, tmp_path / "run")
    assert code == 2
    assert "add --resume" in err
    code, _, err = train(capsys, streets, tmp_path / "next", "--weights", tmp_path / "run")
    assert code == 2
    assert "knows the classes car" in err
    code, out, _ = train(capsys, streets, tmp_path / "next", "--weights", tmp_path / "run", "--classes", "car")
    assert code == 0


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_dataset_is_no_run_folder(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path, resume: list[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(streets, data)
    before = sorted(data.rglob("*"))
    code, _, err = train(capsys, data, data, *resume)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{data} is not empty and holds no run; choose another --out" in err
    assert sorted(data.rglob("*")) == before


def test_a_translators_run_is_not_resumed(capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path) -> None:
    RunFolder(tmp_path / "CG").write_settings(TranslatorSettings())
    code, _, err = train(capsys, streets, tmp_path / "CG", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "CG holds a run of train-translator; choose another --out" in err


#: Relative folders, as they are typed in one working folder, and how others may name them.
TYPED = ("--data", "dataset:train:A", "--data", "tr/night:train:B", "--validation", "tr/night:val")


@pytest.fixture
def places(streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``tr/night``, and one beside it; the process is in the first."""
    shutil.copytree(streets, tmp_path / "here" / "tr" / "night")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_run_with_relative_folders_is_resumed_from_elsewhere(
    capsys: pytest.CaptureFixture[str], streets: Path, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, night = places / "run", places / "here" / "tr" / "night"
    code, _, err = train(capsys, streets, out, *TYPED, "--target", "tr/night", "--steps", 2)
    assert code == 0, err
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["data"] == ["dataset:train:A", f"{night}:train:B"]
    assert settings["validation"] == [f"{night}:val"]
    assert settings["target"] == str(night)
    # Without a word, from here as it was typed, and from there by other ways to the same folder.
    for steps, (folder, words) in enumerate(
        [
            ("there", []),
            ("here", ["--data", "dataset:train:A", "--data", "tr/night:train:B"]),
            ("there", ["--data", "dataset:train:A", "--data", f"{night}:train:B"]),
            ("there", ["--data", "dataset:train:A", "--data", "../here/tr/night:train:B"]),
        ],
        3,
    ):
        monkeypatch.chdir(places / folder)
        code, said, err = run(
            capsys, "train-detector", streets, "--out", out, "--resume", "--cpu", "--steps", steps, *words
        )
        assert code == 0, err
        assert f"finished at step {steps}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "learning_rat=1"], "Unknown key: 'learning_rat' (did you mean 'learning_rate'?)"),
        (["--set", "width=100"], "width must be a multiple of 32"),
        (["--detector", "fcos-resnet19"], "unknown detector 'fcos-resnet19'"),
        (["--classes", "zebra"], "--classes zebra: not in the training labels (there are: car, traffic light)"),
        (["--data", "dataset:train:C"], "expected NAME:SPLIT:DOMAIN:WEIGHT"),
        (["--data", "dataset:all:A:0"], "there is no training data"),
        (["--rename", "car"], "expected --rename old=new"),
        (["--steps", "3", "--epochs", "1"], "--steps or --epochs, not both"),
        (["--weights", "nowhere"], "nowhere: no such file or run folder"),
        (["--pretrained", "nowhere.pth"], "nowhere.pth: no such weight file"),
        (["--stepz", "3"], "No such option"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code, _, err = train(capsys, streets, tmp_path / "run", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_dry_run_writes_nothing_and_its_settings_are_a_config(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path
) -> None:
    code, out, _ = train(capsys, streets, tmp_path / "run", "--epochs", 2, "--dry-run")
    assert code == 0
    assert not (tmp_path / "run").exists()
    settings = yaml.safe_load(out[out.index("data:") :])
    images = sum(len(open_dataset(streets).frames("train", domain)) for domain in "AB")
    assert settings["steps"] == 2 * -(-images // 2)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(settings | {"steps": 7}))
    words = ["train-detector", streets, "--out", tmp_path / "run", "--config", tmp_path / "again.yaml", "--dry-run"]
    code, out, _ = run(capsys, *words, "--cpu")
    assert code == 0
    assert yaml.safe_load(out[out.index("data:") :]) == settings | {"steps": 7}


def test_the_estimate_changes_no_weight(capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path) -> None:
    """The timed passes must leave no trace: a run from Python, without an estimate, ends with the same bytes."""
    from test_train import trainer

    code, _, _ = train(capsys, streets, tmp_path / "cli", "--data", "dataset:train:A", "--data", "dataset:train:B")
    assert code == 0
    trainer(streets, tmp_path / "python").run()
    one, two = (load_detector(tmp_path / name).state_dict() for name in ("cli", "python"))
    assert all(bool((one[key] == two[key]).all()) for key in one)


def test_renamed_classes_are_trained_and_evaluated_as_one(streets: Path) -> None:
    settings = DetectorSettings(rename={"traffic light": "car"})
    data = gather(open_dataset(streets), settings)
    assert data.classes == ("car",)
    assert {box.category for frame in data.val for box in frame.boxes} == {"car"}


def test_the_target_never_shows_labels_or_test_images(streets: Path) -> None:
    data = gather(open_dataset(streets), DetectorSettings(target=str(streets)))
    assert all("train" in (frame.path or Path()).parts for frame in data.target)
    with pytest.raises(DatasetError, match=r"--target .*: no images"):
        gather(open_dataset(streets), DetectorSettings(target=str(streets / "annotations" / "train_A.json")))


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nightaug.cli import main\n"
        "for command in ('train-detector', 'evaluate', 'predict', 'compare', 'report'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'torchvision', 'cv2', 'numpy', 'accelerate', 'PIL', 'ultralytics'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_patience_without_validation_is_refused(streets: Path) -> None:
    with pytest.raises(ConfigError, match="patience needs validation"):
        gather(open_dataset(streets), DetectorSettings(patience=2, evaluate_every=0))


def test_what_has_no_effect_is_said(streets: Path) -> None:
    data = gather(open_dataset(streets), DetectorSettings(rename={"zebra": "car"}, steps=10, warmup=500))
    assert any("zebra" in note for note in data.notes)
    assert any("rises over 500 steps" in note for note in data.notes)


def test_a_clip_that_has_no_effect_is_said(streets: Path) -> None:
    def notes(**given: Any) -> str:
        return "; ".join(gather(open_dataset(streets), build(DetectorSettings, given)).notes)

    day = {"data": ["dataset:train:A"], "clip": "some:tag"}
    assert "--clip is not looked at" in notes(**day)
    assert "clip_gate has nothing to judge" in notes(**day, clip_gate="weigh")
    assert "--clip is not looked at" in notes(**day, clip_gate="weigh")
    adapts = {**day, "adapt": "vlmcshfg", "target": "dataset:train:B"}
    assert not notes(**adapts).count("clip")
    assert "--clip is not looked at" in notes(**adapts, adaptation={"parts": ["sampler"]})
    same = {**adapts, "target": "dataset:train:A"}
    assert "4 of the 4 images of --target are also trained on with labels" in notes(**same)


def test_a_source_that_is_never_drawn_brings_no_classes(streets: Path, tmp_path: Path) -> None:
    data = gather(open_dataset(streets), DetectorSettings(data=("dataset:train:A:1", "dataset:train:B:0")))
    assert data.classes == ("car", "traffic light")
    only = DetectorSettings(data=("dataset:train:A:1", "dataset:train:B:0"), classes=("traffic light",))
    assert gather(open_dataset(streets), only).classes == ("traffic light",)
    for frame in (dataset := open_dataset(streets)).frames("train", "B"):
        frame.boxes[0].category = "tram"
    assert gather(dataset, DetectorSettings(data=("dataset:train:A:1", "dataset:train:B:0"))).classes == data.classes


def adapting(clip: Path, cache: Path) -> list[object]:
    words = ["--data", "dataset:train:A", "--target", "dataset:train:B", "--adapt", "vlmcshfg", "--clip", clip]
    return [*words, f"--set=adaptation.cache={cache}", "--set=adaptation.width=32"]


def test_a_run_stopped_while_it_embeds_resumes_as_what_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, streets: Path, tmp_path: Path, clip: Path
) -> None:
    def interrupted(*given: Any, **options: Any) -> Any:
        stop = StopRequest()
        stop.requested = True
        return fill(*given, **options, stop=stop)

    with monkeypatch.context() as patch:
        patch.setattr("nightaug.clip.fill.fill", interrupted)
        code, _, err = train(capsys, streets, tmp_path / "run", *adapting(clip, tmp_path / "regions"))
    assert code == 1
    assert "run again to go on (with --resume)" in err
    code, _, _ = run(capsys, "train-detector", streets, "--out", tmp_path / "run", "--cpu", "--resume")
    assert code == 0
    assert load_detector(tmp_path / "run").name == "fcos-resnet18"
    assert "alignment" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_dry_run_with_clip_writes_nothing(
    capsys: pytest.CaptureFixture[str], streets: Path, tmp_path: Path, clip: Path
) -> None:
    code, out, _ = train(capsys, streets, tmp_path / "run", "--dry-run", *adapting(clip, tmp_path / "regions"))
    assert code == 0
    assert f"CLIP {clip.name}" in out
    assert not list(tmp_path.iterdir())
