"""A translated folder is scored: a good translation, one that lost objects and gained lamps, and a dim copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nightaug.cli import app
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.curate import faithfulness
from nightaug.curate.faithfulness import score_translation
from nightaug.curate.job import run_curate
from nightaug.curate.judge import Detected, Look
from nightaug.curate.pairs import find_pairs
from nightaug.curate.rows import open_rows, rows_path
from nightaug.curate.scores import ImageScore, TranslationScores, read_scores
from nightaug.curate.summary import summary_lines
from nightaug.data.scenes import write_world
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted
from nightaug.images import read_image, write_image
from nightaug.translate.job import run_job

COUNT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample world with day and night, as BDD100K's folders."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, {"train": {"daytime": COUNT, "night": COUNT}}, width=160, height=90, seed=3)
    return root


@pytest.fixture(scope="module")
def good(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("translated") / "good"
    run_job(world, out, translator="relight", format="png")
    return out


@pytest.fixture(scope="module")
def spoiled(world: Path, good: Path) -> Path:
    """The good translation with its objects wiped out and a lamp painted into each image."""
    out = good.with_name("bad <b>")
    shutil.copytree(good, out)
    for pair in find_pairs(world, out).items:
        assert pair.frame.path is not None
        pixels = read_image(pair.frame.path)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        for box in pair.frame.boxes:
            mask[int(box.y1) : int(box.y2) + 2, int(box.x1) : int(box.x2) + 2] = 255
        pixels = cv2.inpaint(pixels, mask, 3, cv2.INPAINT_TELEA)
        free = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 3)
        free[:8], free[-8:], free[:, :8], free[:, -8:] = 0, 0, 0, 0
        y, x = np.unravel_index(int(free.argmax()), free.shape)
        cv2.circle(pixels, (int(x), int(y)), 4, (0, 0, 0), -1)
        cv2.circle(pixels, (int(x), int(y)), 2, (255, 250, 220), -1, cv2.LINE_AA)
        write_image(pair.frame.path, pixels)
    return out


def lamps(scores: TranslationScores) -> float:
    return float(scores.summary["invented"]["lamps"]["value"])


def kept(scores: TranslationScores, name: str = "all") -> float:
    return float(scores.summary["objects"]["kept"][name]["value"])


def test_a_good_translation_a_bad_one_and_a_dim_copy(world: Path, good: Path, spoiled: Path, tmp_path: Path) -> None:
    dim = tmp_path / "dim"
    shutil.copytree(good, dim)
    for pair in find_pairs(world, dim).items:
        write_image(pair.frame.path or "", (read_image(pair.origin) * 0.25).astype(np.uint8))
    lines: list[str] = []
    scored = {
        name: score_translation(world, folder, out=tmp_path / f"{name}.json", real=world, workers=1, say=lines.append)
        for name, folder in (("good", good), ("bad", spoiled), ("dim", dim))
    }
    assert kept(scored["good"]) > 0.8
    assert kept(scored["bad"]) < 0.5
    assert lamps(scored["good"]) < 0.1
    assert lamps(scored["bad"]) > 0.7
    assert lamps(scored["dim"]) == 0
    night = {name: scores.summary["night"]["probability"]["value"] for name, scores in scored.items()}
    assert min(night["good"], night["bad"]) > 0.5
    assert night["dim"] < 0.2
    assert scored["good"].summary["objects"]["kept"]["all"]["low"] <= kept(scored["good"])
    text = "\n".join(lines)
    assert "not measured: found, moved, invented objects: no --judge" in text
    assert "not measured: FID and KID: no features" in text
    assert read_scores(tmp_path / "bad.json") == scored["bad"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_gallery_shows_the_worst_and_nothing_from_elsewhere(world: Path, spoiled: Path, tmp_path: Path) -> None:
    score_translation(world, spoiled, out=tmp_path / "bad.json", worst=2, workers=1)
    text = (tmp_path / "bad.html").read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert page.tags["img"] in (4, 6, 8)
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "b" not in page.tags  # the folder's name is text
    assert "bad &lt;b&gt;" in text
    assert 'class="lamp"' in text
    assert 'class="lost"' in text


def test_a_second_run_goes_on(world: Path, good: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(good, mine)
    out = tmp_path / "scores.json"
    first = score_translation(world, mine, out=out, gallery=False, workers=1)
    lines = rows_path(out).read_bytes().splitlines(keepends=True)
    assert len(lines) == COUNT
    # A crash tore the last line; and one image was made anew.
    rows_path(out).write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    pairs = find_pairs(world, mine).items
    write_image(pairs[0].frame.path or "", read_image(pairs[1].frame.path or ""))
    with open_rows(rows_path(out)) as rows:
        assert len(rows.known) == COUNT - 1
        with pytest.raises(ConfigError, match="another process"):
            score_translation(world, mine, out=out, gallery=False)
    second = score_translation(world, mine, out=out, gallery=False, workers=1)
    assert len(rows_path(out).read_bytes().splitlines()) == COUNT - 1 + 2
    assert second.images[1:] == first.images[1:]
    assert second.images[0].sha256 != first.images[0].sha256


def test_nothing_of_others_is_written_over(world: Path, good: Path, tmp_path: Path) -> None:
    for name, text in (
        ("train_A.json", '{"images": [], "annotations": [], "categories": []}'),
        ("metrics.json", '{"made": {"kind": "nightaug metrics"}}'),
        ("a.rows.jsonl", '{"type":"Feature","key":1}\n'),
        ("b.rows.jsonl", "my rows"),
        ("c.html", "<html><head><title>Mine</title></head></html>"),
    ):
        path = tmp_path / name
        path.write_text(text)
        out = tmp_path / f"{name.split('.')[0]}.json"
        with pytest.raises(ConfigError, match=f"{name} is a file that score-translation has not made; choose another"):
            score_translation(world, good, out=out, workers=1)
        assert path.read_text() == text
        assert len(list(tmp_path.iterdir())) == 1, "nothing else is written"
        path.unlink()
    # Without a page the file of its name is nobody's concern.
    (tmp_path / "d.html").write_text("mine")
    score_translation(world, good, out=tmp_path / "d.json", gallery=False, limit=2, workers=1)
    assert (tmp_path / "d.html").read_text() == "mine"


@pytest.mark.parametrize("left", ["all", "rows", "page", "torn"])
def test_its_own_results_are_written_over(world: Path, good: Path, tmp_path: Path, left: str) -> None:
    out = tmp_path / "s.json"
    first = score_translation(world, good, out=out, limit=2, workers=1)
    page = out.with_suffix(".html")
    if left != "all":
        out.unlink()
    if left == "page":
        rows_path(out).unlink()
    if left == "torn":
        rows_path(out).write_bytes(rows_path(out).read_bytes()[:9])
    assert score_translation(world, good, out=out, limit=2, workers=1) == first
    assert page.exists()


def test_ctrl_c_keeps_what_is_done(world: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightaug.curate import measure

    out = tmp_path / "scores.json"
    stops: list[Any] = []
    real_request, real_pair = faithfulness.StopRequest, measure.prepare_pair

    def request() -> Any:
        stops.append(real_request())
        return stops[-1]

    def pressed(*given: Any) -> Any:
        stops[-1].requested = True
        return real_pair(*given)

    monkeypatch.setattr(faithfulness, "StopRequest", request)
    monkeypatch.setattr(measure, "prepare_pair", pressed)
    with pytest.raises(Interrupted, match=f"of {COUNT} images; they are kept, run the same command to go on"):
        score_translation(world, good, out=out, batch=2, workers=1)
    monkeypatch.undo()
    assert 0 < len(rows_path(out).read_bytes().splitlines()) < COUNT
    assert not out.exists()
    assert len(score_translation(world, good, out=out, gallery=False, workers=1).images) == COUNT


def test_bad_images_are_counted_and_the_rest_is_scored(world: Path, good: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(good, mine)
    paths = [pair.frame.path for pair in find_pairs(world, mine).items]
    assert paths[0] is not None
    assert paths[1] is not None
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    paths[1].write_bytes(b"")
    (paths[2] or paths[0]).unlink()
    rows = (mine / "manifest.jsonl").read_text().splitlines()
    rows.append(json.dumps({**json.loads(rows[3]), "output": "../outside.png"}))
    (mine / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    run = CliRunner().invoke(
        app, ["score-translation", str(world), str(mine), "--out", str(tmp_path / "s.json"), "--worst", "1"]
    )
    assert run.exit_code == 1, run.output
    scores = read_scores(tmp_path / "s.json")
    assert len(scores.failed) == 4
    assert scores.failed["../outside.png"] == "the manifest names a file outside the folders"
    assert len(scores.images) == COUNT - 3
    assert "could not be scored" in run.output


def test_without_labels(world: Path, good: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(good, mine)
    for label in mine.rglob("*.json"):
        if label.name != "translation.json":
            label.unlink()
    lines: list[str] = []
    scores = score_translation(world, mine, out=tmp_path / "s.json", workers=1, say=lines.append)
    assert any("no labels" in line for line in lines)
    assert scores.summary["objects"]["kept"]["all"]["value"] is None
    assert all(image.spots is not None for image in scores.images)


def test_what_cannot_be_scored_is_said_in_one_line(world: Path, good: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    with pytest.raises(DatasetError, match=f"good was translated from {world}"):
        score_translation(tmp_path / "moved", good, out=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"its source .* is missing.*good was translated from"):
        score_translation(tmp_path / "empty", good, out=out)
    (tmp_path / "judge.safetensors").write_bytes(b"not a weight file")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        score_translation(world, good, out=out, judge=tmp_path / "judge.safetensors")
    with pytest.raises(ConfigError, match="expected clip, inception"):
        score_translation(world, good, out=out, features=["vgg"])
    with pytest.raises(ConfigError, match=r"expected a \.json file"):
        score_translation(world, good, out=tmp_path)


# -- with a judge ------------------------------------------------------------------------------------------------------

RED, BLUE = (200, 30, 30), (30, 30, 200)


class ColourJudge:
    """Finds red cars and blue trucks, at any brightness, without a weight."""

    classes = ("car", "truck", "bus")
    name, sha = "colours", "0"

    def __init__(self, *given: Any) -> None:
        self.eyes = type("Eyes", (), {"precision": "fp32"})()

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[Detected, Look]]:
        out = []
        for image in images:
            found = Detected([], [], [])
            for name, own, other in (("car", 0, 2), ("truck", 2, 0)):
                mask = (image[..., own] > 3.0 * image[..., other] + 8).astype(np.uint8)
                for x, y, w, h, area in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
                    if area > 20:
                        found.boxes.append((x, y, x + w, y + h))
                        found.scores.append(0.9)
                        found.labels.append(name)
            vector = torch.tensor([image.mean(), image.std()])
            out.append((found, Look(vector, torch.from_numpy(image[::8, ::8].reshape(-1, 3).copy()).float())))
        return out


def patch(image: np.ndarray, x: int, y: int, colour: tuple[int, int, int]) -> None:
    image[y : y + 12, x : x + 20] = colour
    image[y + 4 : y + 8, x + 4 : x + 16] = np.array(colour) // 2


@pytest.fixture
def coloured(tmp_path: Path) -> tuple[Path, Path]:
    """A source with a car (10, 10), a truck (60, 10), a bus nobody sees and a car without a label (10, 40); and a
    translation in which the truck is gone, the car has moved by 2 px and a new truck stands at (60, 40)."""
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    labels = []
    for i in range(3):
        image = rng.integers(90, 110, (64, 96, 1)).astype(np.uint8).repeat(3, axis=2)
        for x, y, colour in ((10, 10, RED), (60, 10, BLUE), (10, 40, RED)):
            patch(image, x, y, colour)
        write_image(source / "images" / f"{i}.png", image)
        boxes = [("car", 10, 10), ("truck", 60, 10), ("bus", 38, 24)]
        labels.append(
            {"name": f"{i}.png", "labels": [
                {"category": name, "box2d": {"x1": x, "y1": y, "x2": x + 20, "y2": y + 12}} for name, x, y in boxes
            ]}
        )  # fmt: skip
    (source / "labels.json").write_text(json.dumps(labels))
    out = tmp_path / "translated"
    run_job(source, out, translator="relight")
    for pair in find_pairs(source, out).items:
        image = read_image(pair.origin)
        image[8:24, 8:84] = 100
        patch(image, 12, 10, RED)
        patch(image, 60, 40, BLUE)
        write_image(pair.frame.path or "", (image * 0.3).astype(np.uint8))
    return source, out


def test_the_judge_tells_kept_moved_and_invented(
    coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faithfulness, "Judge", ColourJudge)
    source, translated = coloured
    lines: list[str] = []
    scores = score_translation(
        source, translated, out=tmp_path / "s.json", judge=tmp_path, score=0.5, real=source, workers=1,
        say=lines.append,
    )  # fmt: skip
    image: ImageScore = scores.images[0]
    car, truck, bus = image.boxes
    assert (car.found_day, car.found_night) == (0.9, 0.9)
    assert car.moved == pytest.approx(1 - 18 / 22, abs=1e-3)
    assert (truck.found_day, truck.found_night, truck.moved) == (0.9, 0.0, None)
    assert (truck.kept or 0) < 0.5 < (car.kept or 0)
    assert bus.found_day == 0.0  # known to the judge, not seen by day: not held against the night
    assert "judge" not in faithfulness_parts(bus)
    objects = [each for each in image.invented if each.kind == "object"]
    assert [(each.category, each.xyxy) for each in objects] == [("truck", (60, 40, 80, 52))]
    assert image.false_detections == 2  # the car without a label is false, and not invented
    invented = scores.summary["invented"]
    assert invented["objects"]["truck"]["value"] == invented["objects"]["all"]["value"] == 1
    assert invented["false_detections"]["value"] == 2
    assert scores.summary["sets"]["judge"]["structure_distance"] > 0
    assert scores.summary["sets"]["judge"]["source"]["fid"] == pytest.approx(0, abs=1e-6)  # it is the real set here
    assert scores.summary["sets"]["judge"]["real"]["fid"] is None  # three images have no two halves to speak of
    assert scores.summary["real"]["false_detections"]["value"] == 1


class NervousJudge(ColourJudge):
    """Sees a bus in everything dark."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[Detected, Look]]:
        out = super().__call__(images)
        for image, (found, _) in zip(images, out, strict=True):
            if image.mean() < 40:
                found.boxes.append((70.0, 24.0, 92.0, 36.0))
                found.scores.append(0.6)
                found.labels.append("bus")
        return out


def test_what_the_judge_sees_in_a_dim_copy_is_its_own_doubt(
    coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faithfulness, "Judge", NervousJudge)
    out, lines = tmp_path / "s.json", list[str]()
    score = partial(score_translation, *coloured, out=out, judge=tmp_path, score=0.5, workers=1, gallery=False)
    scores = score(say=lines.append)
    invented = scores.summary["invented"]
    assert invented["objects"]["all"]["value"] == 2  # the truck and the bus
    assert {name: cell["value"] for name, cell in invented["doubted"].items()} == {"all": 1, "bus": 1}
    assert scores.images[0].doubted == ["bus"]
    assert any(
        "dim copies of the source, in which nothing can be invented: 1.00 [1.00, 1.00]" in line for line in lines
    )
    assert score().summary["invented"] == invented  # from the rows


class BlindJudge(ColourJudge):
    """Finds nothing in any image, and tells none from another."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple[Detected, Look]]:
        return [
            (Detected([], [], []), Look(torch.full((2,), 0.3), look.places)) for _, look in super().__call__(images)
        ]


@pytest.mark.parametrize("real", [False, True])
def test_a_judge_that_finds_nothing_by_day_certifies_nothing(
    coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    monkeypatch.setattr(faithfulness, "Judge", BlindJudge)
    source, translated = coloured
    out, lines = tmp_path / "s.json", list[str]()
    scores = score_translation(
        source, translated, out=out, judge=tmp_path, real=source if real else None, workers=1, gallery=False,
        say=lines.append,
    )  # fmt: skip
    said = [
        line for line in lines if "this judge is blind (it finds 0.00 of the labelled objects in the source" in line
    ]
    assert len(said) == 1
    assert "its counts of invented objects mean nothing" in said[0]
    assert not any("0.00 [0.00, 0.00]" in line and "invented" in line for line in lines)
    assert not any("nearly blind by night" in line for line in lines)
    table = next(line for line in lines if line.startswith("all "))
    assert table.split()[-1] == "-"
    invented = scores.summary["invented"]
    assert [invented[key]["value"] for key in ("false_detections", "lamps")] == [None, 0]
    assert invented["objects"]["all"]["value"] is None
    if real:
        cell = scores.summary["sets"]["judge"]
        assert {(cell[one]["fid"], cell[one]["kid"]) for one in ("translated", "source", "real")} == {(None, None)}
        assert scores.summary["skipped"]["FID and KID on features of judge"] == "they are the same for every image"
    lines.clear()
    run_curate(translated, scores=out, dry_run=True, say=lines.append)
    assert any(line.startswith("warning: this judge is blind") for line in lines)


def test_a_judge_that_finds_a_part_by_day_is_not_called_blind(
    coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faithfulness, "Judge", ColourJudge)
    out, lines = tmp_path / "s.json", list[str]()
    score_translation(*coloured, out=out, judge=tmp_path, workers=1, gallery=False, say=lines.append)
    run_curate(coloured[1], scores=out, dry_run=True, say=lines.append)
    assert not any("blind" in line for line in lines)


def faithfulness_parts(box: Any) -> dict[str, float]:
    from nightaug.curate.kept import kept_parts

    return kept_parts(box, 0.5, 0.5)


def test_what_curating_left_out_is_not_summed_up(coloured: tuple[Path, Path], tmp_path: Path) -> None:
    source, translated = coloured
    manifest = translated / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["weight"], rows[1]["dropped_boxes"] = 0.0, [1]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines: list[str] = []
    out = tmp_path / "s.json"
    scores = score_translation(source, translated, out=out, gallery=False, workers=1, say=lines.append)
    assert scores.summary["left_out"] == {"images": 1, "boxes": 4}
    assert any("1 images, 4 boxes, theirs among them" in line for line in lines)
    counts = {name: cell["count"] for name, cell in scores.summary["objects"]["kept"].items()}
    assert (counts["car"], counts["truck"]) == (2, 1)
    assert scores.summary["invented"]["lamps"]["count"] == 2
    assert [len(image.boxes) for image in scores.images] == [3, 3, 3]  # curating decides about all of them
    scores = score_translation(source, translated, out=out, gallery=False, workers=1, everything=True)
    assert scores.summary["left_out"] == {"images": 0, "boxes": 0}
    assert scores.summary["objects"]["kept"]["truck"]["count"] == 3
    lamps_shown = {"value": 1.0, "low": 1.0, "high": 1.0, "count": 2}
    scores.summary["real"] = {"images": 9, "labelled": 2, "lamps_shown": lamps_shown}
    assert any("outside objects on 2 real nights" in line for line in summary_lines(scores.summary))


def test_a_judge_of_other_classes(coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, translated = coloured
    monkeypatch.setattr(faithfulness, "Judge", ColourJudge)
    monkeypatch.setattr(ColourJudge, "classes", ("car", "sheep"))
    scores = score_translation(source, translated, out=tmp_path / "s.json", judge=tmp_path, gallery=False, workers=1)
    assert scores.summary["judge"]["unknown"] == ["bus", "truck"]
    assert scores.images[0].boxes[1].found_day is None
    assert "judge's word on bus, truck" in scores.summary["skipped"]
    monkeypatch.setattr(ColourJudge, "classes", ("sheep",))
    with pytest.raises(ConfigError, match="knows sheep; the labels have bus, car, truck"):
        score_translation(source, translated, out=tmp_path / "s.json", judge=tmp_path)


def test_clip_looks_at_each_box(coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = TinySettings(size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1)
    torch.manual_seed(0)
    write_tiny(tmp_path / "clip", build_tiny(settings), settings)
    source, translated = coloured
    first = find_pairs(source, translated).items[0]
    shutil.copy(first.origin, first.frame.path or "")  # an image that was not changed at all
    scores = score_translation(
        source, translated, out=tmp_path / "s.json", real=source, clip=str(tmp_path / "clip"), gallery=False, workers=1
    )
    for box in scores.images[0].boxes:
        assert box.similarity == pytest.approx(1, abs=2e-3)
        assert box.clip_day == pytest.approx(box.clip_night, abs=1e-3)
    gone = scores.images[1].boxes[1]
    assert gone.clip_day != gone.clip_night
    cell = scores.summary["sets"]["clip"]
    assert cell["source"]["cmmd"] == pytest.approx(0, abs=1e-6)
    assert cell["real"]["cmmd"] > 0  # one half of the real nights is not the other
    assert cell["translated"]["cmmd"] > 0
    assert cell["fid_biased"]


def test_help_of_inception_without_a_network(
    coloured: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*given: Any, **options: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    source, translated = coloured
    scores = score_translation(
        source, translated, out=tmp_path / "s.json", features=["inception"], gallery=False, workers=1
    )
    why = scores.summary["skipped"]["features of Inception"]
    assert "fetch https://" in why
    assert "--features inception:FILE" in why
