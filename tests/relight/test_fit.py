"""Fitting relight: it finds what was changed, ends the same when stopped, and its file is a translator."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import picture

from nightaug.cli import main
from nightaug.data.frames import Box
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted
from nightaug.images import read_image, write_image
from nightaug.relight import RelightSettings, relight, relight_settings
from nightaug.relight.fit import Shot, changed, fit_constants, price, shrunk, turned
from nightaug.relight.statistics import SCENE, Values, distances, measure, total
from nightaug.translate import fit_job
from nightaug.translate.translators import Translator

BRIGHT = (28.0, 160.0)


def streets(first: int, count: int) -> list[Shot]:
    """Pictures with a sign and a car in each."""
    rng = np.random.default_rng(first)
    shots = []
    for number in range(first, first + count):
        image = picture(number, 128, 72)
        x, y = int(rng.integers(2, 80)), int(rng.integers(30, 45))
        image[y : y + 20, x : x + 30], image[8:18, x : x + 10] = (180, 40, 40), (230, 230, 60)
        shots.append((image, [Box(x, y, x + 30, y + 20, "car"), Box(x, 8, x + 10, 18, "traffic sign")]))
    return shots


@cache
def nights(low: float = 7.0, high: float = 40.0) -> dict[str, Values]:
    """Nights of that ``median_luma``; relight's own without."""
    settings = relight_settings({"median_luma": (low, high)})
    return measure(
        (relight(image, boxes, seed=90 + n, settings=settings), boxes)
        for n, (image, boxes) in enumerate(streets(50, 24))
    )


def test_it_finds_what_makes_these_nights(tmp_path: Path) -> None:
    knobs, rounds = ("sky_luma", "median_luma"), ((2.0, False),)
    options = {"knobs": knobs, "rounds": rounds, "held": (streets(20, 20), nights(*BRIGHT))}
    fit = fit_constants(streets(0, 20), nights(*BRIGHT), **options)  # type: ignore[arg-type]
    assert fit.constants["median_luma"][1] >= 80, "they are brighter than relight's own"
    assert total(fit.after) < 0.7 * total(fit.before)
    assert fit.held_before is not None
    assert fit.held_after is not None
    assert total(fit.held_after) < 0.8 * total(fit.held_before), "of frames that took no part"
    assert set(fit.after) == {SCENE, "car", "traffic sign"}

    own = fit_constants(streets(0, 20), nights(), knobs=knobs[1:], rounds=((1.5, True),))
    assert price(relight_settings(own.constants)) <= 0.008, "nothing to find"

    # Stopped after any trial and run again: the same end, and nothing is drawn twice.
    asked, file = 0, tmp_path / "trials.json"

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    torn = fit_constants(streets(0, 20), nights(*BRIGHT), trials=file, stop=stop, **options)  # type: ignore[arg-type]
    assert torn.stopped
    assert torn.trials < fit.trials
    known = len(json.loads(file.read_text())["known"])
    assert fit_constants(streets(0, 20), nights(*BRIGHT), trials=file, **options) == fit  # type: ignore[arg-type]
    assert len(json.loads(file.read_text())["known"]) > known

    with pytest.raises(CheckpointError, match="other images"):
        fit_constants(streets(1, 20), nights(*BRIGHT), trials=file, knobs=knobs, rounds=rounds)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="delete it"):
        fit_constants(streets(0, 20), nights(*BRIGHT), trials=file, knobs=knobs, rounds=rounds)


def test_constants_stay_possible() -> None:
    own = RelightSettings()
    assert turned(own, "glow", 2, 2).glow == (1.2, 4.0)  # type: ignore[union-attr]
    assert turned(own, "glow", 0.5, 2).glow == (0.3, 4.0)  # type: ignore[union-attr]
    assert turned(own, "glow", 4, 0.25) is None, "the wrong way round"
    assert turned(own, "contrast", 0.5, 0.5).contrast == (1.0, 1.0)  # type: ignore[union-attr]
    assert turned(own, "lit_on_road", 2, 2) is None, "a chance over 1"
    assert turned(own, "lit_on_road", 0.5, 2) is None, "one number has no ends"
    assert turned(own, "far_lights", 2, 2).far_lights == (0.0, 12.0)  # type: ignore[union-attr]
    assert turned(own, "far_lights", 0.5, 0.5) is None, "it is off already"
    settings: RelightSettings | None = own
    for _ in range(3):
        settings = turned(settings, "glow", 2, 2)  # type: ignore[arg-type]
    assert settings is not None
    assert turned(settings, "glow", 2, 2) is None, "no farther than eightfold"
    assert changed(settings) == {"glow": (4.8, 16.0)}
    assert price(settings) == pytest.approx(0.012)
    assert price(own) == 0


def test_images_shrink_with_their_boxes() -> None:
    image, boxes = shrunk(picture(0, 200, 100), [Box(20, 10, 60, 50, "car", weight=0.5)], 50)
    assert image.shape == (25, 50, 3)
    assert boxes[0].xyxy == (5, 2.5, 15, 12.5)
    assert boxes[0].weight == 0.5
    image, _ = shrunk(picture(0, 20, 10), [], 50)
    assert image.shape == (10, 20, 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 18 days and 18 nights that are brighter than relight's own. Read only."""
    tmp_path = tmp_path_factory.mktemp("nights")
    from nightaug.data.domains import prepare

    settings = relight_settings({"median_luma": BRIGHT})
    rows = []
    for n, (image, boxes) in enumerate(streets(0, 36)):
        night = n % 2 == 1
        path = tmp_path / "raw" / "images" / "100k" / "train" / f"d{n:02d}-0.png"
        write_image(path, relight(image, boxes, seed=n, settings=settings) if night else image)
        labels = [
            {"id": str(i), "category": b.category, "box2d": dict(zip(("x1", "y1", "x2", "y2"), b.xyxy, strict=True))}
            for i, b in enumerate(boxes)
        ]
        attributes = {"timeofday": "night" if night else "daytime", "weather": "clear", "scene": "highway"}
        rows.append({"name": path.name, "attributes": attributes, "labels": labels})
    file = tmp_path / "raw" / "labels" / "det_20" / "det_train.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(rows))
    prepare(tmp_path / "raw", out=tmp_path / "data", split="10:0:0", check_brightness=False)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_job, "KNOBS", ("median_luma",))
    monkeypatch.setattr(fit_job, "ROUNDS", ((2.0, False),))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    out = capsys.readouterr()
    return int(exit.value.code or 0), out.out, out.err


def test_from_a_dataset_to_translated_images(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fitted.yaml"
    words = ("fit-relight", data, "--out", file, "--days", 8, "--nights", 8, "--workers", 1)
    code, out, err = run(capsys, *words, "--dry-run")
    assert code == 0, err
    assert not file.exists()
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "held out: distance" in out
    assert f"--translator {file}" in out
    content = yaml.safe_load(file.read_text())
    assert content["relight"]["median_luma"][1] > 40
    assert content["night_boxes"] == "real"
    assert sum(content["distance"]["after"].values()) < sum(content["distance"]["before"].values())
    assert not list(tmp_path.glob("*.trials.json"))
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "--overwrite" in err

    night = Translator.load(file)
    image, boxes = streets(3, 1)[0]
    assert np.array_equal(
        night(image, boxes, 7), relight(image, boxes, seed=7, settings=relight_settings(content["relight"]))
    )
    code, out, err = run(capsys, "translate", data, "--out", tmp_path / "night", "--translator", file)
    assert code == 0, err
    facts = json.loads((tmp_path / "night" / "translation.json").read_text())
    assert facts["translator"] == "relight"
    assert facts["settings"]["relight"] == content["relight"]
    assert facts["settings"]["night_boxes"] is True
    made = next((tmp_path / "night").rglob("*.png"))
    assert read_image(made).shape == (72, 128, 3)
    code, _, err = run(
        capsys, "translate", data, "--out", tmp_path / "x", "--translator", file, "--curate-mode", "mend"
    )
    assert code == 2
    assert "cannot mend its own images" in err


def test_without_labels_of_the_nights(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    words = ("fit-relight", data, "--days", 8, "--nights", 8, "--workers", 1)
    code, _, err = run(capsys, *words, "--out", tmp_path / "a.yaml", "--night-boxes", "none")
    assert code == 0, err
    content = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert content["night_boxes"] == "none"
    assert set(content["distance"]["after"]) == {"scene"}
    assert "night_boxes" not in Translator.load(tmp_path / "a.yaml").settings
    found = next((data / "annotations").glob("*train*B*"))
    code, _, err = run(capsys, *words, "--out", tmp_path / "b.yaml", "--night-boxes", found)
    assert code == 0, err
    assert yaml.safe_load((tmp_path / "b.yaml").read_text())["night_boxes"] == "pseudo"
    assert Translator.load(tmp_path / "b.yaml").settings["night_boxes"] == "pseudo"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "a.json"], "expected a .yaml file"),
        (["--out", "a.yaml", "--night-boxes", "absent.json"], "absent.json"),
        (["--out", "a.yaml", "--split", "val"], "too few"),
        (["--out", "a.yaml", "--split", "holdout"], "no split holdout; choose one with --split (train"),
    ],
)
def test_mistakes_get_one_line(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], expected: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "fit-relight", data, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize("domain", ["A", "B"])
def test_too_few_readable_frames_are_no_night_to_fit_to(data: Path, tmp_path: Path, domain: str) -> None:
    shutil.copytree(data, tmp_path / "data", copy_function=shutil.copyfile)
    for path in sorted((tmp_path / "data" / "train" / domain).glob("*.png"))[3:]:
        path.write_bytes(b"no image")
    lines: list[str] = []
    with pytest.raises(DatasetError, match="too few of its images can be read"):
        fit_job.run_fit(tmp_path / "data", tmp_path / "a.yaml", days=8, nights=8, say=lines.append)
    assert any("could not be read and were stepped over" in line for line in lines)
    assert not (tmp_path / "a.yaml").exists()


def test_ctrl_c_keeps_the_trials(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_job.run_fit(str(data), str(tmp_path / "whole.yaml"), days=8, nights=8)
    real, calls = fit_job.fit_constants, []

    def stopped(*args: object, **options: object) -> object:
        return real(*args, **{**options, "stop": lambda: calls.append(0) or len(calls) > 2})  # type: ignore[arg-type,func-returns-value]

    monkeypatch.setattr(fit_job, "fit_constants", stopped)
    with pytest.raises(Interrupted, match="the same command goes on"):
        fit_job.run_fit(data, tmp_path / "torn.yaml", days=8, nights=8)
    assert not (tmp_path / "torn.yaml").exists()
    monkeypatch.undo()
    monkeypatch.setattr(fit_job, "KNOBS", ("median_luma",))
    monkeypatch.setattr(fit_job, "ROUNDS", ((2.0, False),))
    assert fit_job.run_fit(data, tmp_path / "torn.yaml", days=8, nights=8) == whole
    assert (tmp_path / "torn.yaml").read_text() == (tmp_path / "whole.yaml").read_text()


def test_a_file_of_something_else_is_no_translator(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="no constants of relight"):
        Translator.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("relight: {sign_ligth: [1, 2]}\n")
    with pytest.raises(ConfigError, match="did you mean 'sign_light'"):
        Translator.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("relight: {1: 2, no: 3}\n")
    with pytest.raises(ConfigError, match="Unknown key: '1'; Unknown key: 'False'"):
        Translator.load(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Translator.load(tmp_path / "absent.yaml")


def test_sets_are_apart_by_their_distributions() -> None:
    one = nights()
    assert total(distances(one, one)) == 0
    assert total(distances(one, nights(2.0, 4.0))) > 1
    few = measure(streets(0, 5))
    assert set(distances(few, few)) == {SCENE}, "too few cars to speak of"
    crowd = measure([(picture(0), [Box(0, 0, 30, 30, "car", crowd=True), Box(0, 0, 3, 3, "car")])])
    assert set(crowd) == {SCENE}
    tiny = measure([(picture(0, 1, 1), [])])
    assert all(np.isfinite(value) for values in tiny[SCENE].values() for value in values)
