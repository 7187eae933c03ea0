"""Curating: what is lost or invented is dropped, weighed down or mended, counted, and can be undone to the byte."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import scalabel

from nightaug.cli import main
from nightaug.curate import curate as curate_module
from nightaug.curate import faithfulness
from nightaug.curate import ledger as ledger_module
from nightaug.curate.curate import curate, undo
from nightaug.curate.faithfulness import score_translation
from nightaug.curate.job import run_curate
from nightaug.curate.pairs import find_pairs
from nightaug.curate.scores import BoxScore, ImageScore, Invented, TranslationScores, read_scores, write_scores
from nightaug.curate.settings import CurateSettings
from nightaug.data.formats import open_dataset
from nightaug.detect.sources import SourceSpec, load_source
from nightaug.errors import ConfigError, DatasetError, Interrupted, NightaugError
from nightaug.images import image_description, image_format
from nightaug.translate import pipeline
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan, read_manifest
from nightaug.translate.translators import Translator

MEND = CurateSettings(mode="mend")


def dark(name: str = "dark") -> Translator:
    """A translator that loses every object: an even, dim copy."""
    return Translator(name, "day2night", None, True, lambda image, boxes, seed: (image // 8 + 4).astype(np.uint8))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (".lock", ".undo.tmp")
    }


def world(tmp_path: Path, count: int = 4, suffix: str = "jpg") -> tuple[Path, Path]:
    """A dataset of ``count`` day images with a car, a second car and a pedestrian each, and its translation."""
    root, out = scalabel(tmp_path / "in", ["daytime"] * count, suffix), tmp_path / "out"
    path = root / "labels/det_20/det_train.json"
    frames = json.loads(path.read_text())
    for frame in frames:
        for category, x1 in (("car", 40), ("pedestrian", 70)):
            box = {"x1": x1, "y1": 10, "x2": x1 + 20, "y2": 40}
            frame["labels"].append({"id": category + str(x1), "category": category, "box2d": box})
    path.write_text(json.dumps(frames))
    translate(make_plan(root, "day2night"), dark(), out)
    return root, out


def scored(
    root: Path, out: Path, lost: dict[int, set[int]], invented: dict[int, int] | None = None
) -> TranslationScores:
    """Scores which say that boxes of images (by their place in the manifest) are lost, and lamps invented."""
    frames = {f.path: f for f in open_dataset(out).frames()}
    images = []
    for number, row in enumerate(read_manifest(out)):
        path = out / row.output
        boxes = [
            BoxScore(
                index=i, category=box.category, xyxy=box.xyxy, kept=0.1 + i / 100 if i in lost.get(number, ()) else 0.9
            )
            for i, box in enumerate(frames[path].boxes)
        ]
        lamp = Invented(kind="lamp", xyxy=(60.0, 50.0, 64.0, 54.0), score=0.9)
        images.append(
            ImageScore(
                output=row.output, source=row.source, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                boxes=boxes, invented=[lamp] * (invented or {}).get(number, 0),
            )
        )  # fmt: skip
    return TranslationScores(
        nightaug="0", source=str(root), translated=str(out), settings={}, summary={}, images=images
    )


def test_dropped_boxes_and_images_do_not_train(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    before = files(out)
    report = curate(out, scored(root, out, {0: {1}}, {2: 3}))
    frames = load_source(SourceSpec(str(out)), open_dataset(root)).frames
    assert [frame.name for frame in frames] == ["0000-a.jpg", "0001-a.jpg", "0003-a.jpg"]
    assert [[box.weight for box in frame.boxes] for frame in frames] == [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    assert report.images == {
        "total": 4, "kept": 3, "mended": 0, "weighed": 0, "dropped": 1, "unscored": 0, "thinned": 1
    }  # fmt: skip
    assert (report.boxes["car"].total, report.boxes["car"].dropped, report.boxes["pedestrian"].dropped) == (8, 3, 1)
    changed = {name for name, data in files(out).items() if before.get(name) != data}
    assert changed == {"manifest.jsonl", "curated/journal.jsonl", "curated/curation.json"}  # labels stay as they are
    said = json.loads((out / "curated/curation.json").read_text())
    assert said["images"] == report.images
    assert said["judge_night_boxes"] is False  # without a judge


@pytest.mark.parametrize("told", [True, False, None])
def test_the_judges_night_labels_are_noted(tmp_path: Path, told: bool | None) -> None:
    root, out = world(tmp_path, 1)
    scores = scored(root, out, {})
    scores.settings["judge"] = {"name": "x", "sha256": "0", **({} if told is None else {"night_boxes": told})}
    curate(out, scores)
    assert json.loads((out / "curated/curation.json").read_text())["judge_night_boxes"] is told


def test_a_label_file_with_its_images_elsewhere(tmp_path: Path) -> None:
    root, _ = world(tmp_path)
    labels, out = root / "labels/det_20/det_train.json", tmp_path / "of the labels"
    translate(make_plan(labels, "day2night"), dark(), out)
    pairs = find_pairs(labels, out)
    assert [pair.origin for pair in pairs.items] == [root / f"images/100k/train/000{i}-a.jpg" for i in range(4)]
    assert not pairs.failed
    report = curate(out, scored(labels, out, {0: {0}}), MEND)
    assert (report.images["mended"], report.failed) == (1, {})


def test_an_image_with_invented_lamps_counts_less(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    report = curate(out, scored(root, out, {}, {0: 1, 1: 20}), CurateSettings(mode="weigh", invented_cost=0.5))
    assert [row.weight for row in read_manifest(out)] == [0.5, 0.1, 1.0, 1.0]
    assert report.images["weighed"] == 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_mending_and_undoing(tmp_path: Path, suffix: str) -> None:
    root, out = world(tmp_path, suffix=suffix)
    before, rows = files(out), list(read_manifest(out))
    scores = scored(root, out, {0: {0}, 2: {0, 2}}, {2: 1})
    report = curate(out, scores, MEND, workers=2)
    assert (report.images["mended"], report.boxes["car"].mended, report.boxes["pedestrian"].mended) == (2, 2, 1)
    assert report.invented == {"found": 1, "mended": 1}
    for number, (old, new) in enumerate(zip(rows, read_manifest(out), strict=True)):
        data = (out / new.output).read_bytes()
        assert new.sha256 == hashlib.sha256(data).hexdigest()
        assert (new.weight, new.dropped_boxes, new.inputs, new.seed) == (1.0, [], old.inputs, old.seed)
        assert (data != before[new.output]) == (number in (0, 2))
    mended = out / rows[0].output
    said = image_description(mended) or ""
    assert "synthetic night image, made by nightaug" in said
    assert "mended" in said
    assert image_format(mended) == suffix
    # What a mended image was cannot be taken for an image of the folder.
    assert len(open_dataset(out).frames()) == 4
    again = files(out)
    assert curate(out, scores, MEND) == report
    assert files(out) == again
    # Other settings start from what was translated, not from what was mended.
    curate(out, scores, CurateSettings(lost_below=0.0))
    assert {name: data for name, data in files(out).items() if not name.startswith("curated/")} == before
    curate(out, scores, MEND)
    assert files(out) == again
    assert undo(out) == (2, 0)
    assert files(out) == before
    assert undo(out) == (0, 0)


class Killed(BaseException):
    pass


def test_killed_at_any_moment_it_is_completed_or_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write, link and journal line in turn is the last that happens, or the first that does not."""
    root, out = world(tmp_path, 3)
    before = files(out)
    scores = scored(root, out, {0: {0}, 1: {1}}, {1: 1})
    scores.images[2].boxes[0].kept = 0.0
    (root / scores.images[2].source).unlink()  # one image is dropped, as it cannot be mended
    curate(out, scores, MEND)
    whole, journal = files(out), "curated/journal.jsonl"  # in which another order is as good
    undo(out)
    places = [
        (curate_module, "atomic_write_bytes"), (ledger_module, "atomic_write_bytes"), (ledger_module.os, "link"),
        (ledger_module.os, "replace"), (ledger_module._Journal, "add"), (ledger_module, "remove_curation"),
    ]  # fmt: skip

    def killing_at(moment: int, late: bool) -> bool:
        """Let it happen ``moment`` times; True once that is more often than it happens."""
        left = [moment]
        with monkeypatch.context() as patch:
            for owner, name in places:
                original = getattr(owner, name)

                def counted(*arguments: object, _original: object = original, **named: object) -> object:
                    left[0] -= 1
                    if left[0] < 0 and not late:
                        raise Killed
                    result = _original(*arguments, **named)  # type: ignore[operator]
                    if left[0] < 0:
                        raise Killed
                    return result

                patch.setattr(owner, name, counted)
            try:
                work()
            except Killed:
                return False
        return True

    moments = 0
    for late in (False, True):
        for undoing in (False, True):
            work = (lambda: undo(out)) if undoing else (lambda: curate(out, scores, MEND, workers=1))
            for moment in range(60):
                if undoing:
                    curate(out, scores, MEND)
                over = killing_at(moment, late)
                moments += 1
                if moment % 2:
                    curate(out, scores, MEND)
                    assert {**files(out), journal: whole[journal]} == whole, (moment, undoing, late)
                undo(out)
                assert files(out) == before, (moment, undoing, late)
                assert not list(out.rglob("*.tmp"))
                if over:
                    break
            else:
                pytest.fail("never came to the end")
    assert moments > 30


def test_undoing_removes_what_a_killed_run_was_writing(tmp_path: Path) -> None:
    root, out = world(tmp_path, 1)
    before = files(out)
    curate(out, scored(root, out, {0: {0}}), MEND)
    image = next(out.rglob("*.jpg"))
    image.with_name(f".{image.name}.a1b2c3d4.tmp").write_bytes(b"torn")
    undo(out)
    assert files(out) == before


def test_translating_again_leaves_curation_as_it_is(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    before = files(out)
    curate(out, scored(root, out, {0: {0}}, {2: 2}), MEND)
    curated = files(out)
    plan = make_plan(root, "day2night")
    assert translate(plan, dark(), out).present == 4
    assert files(out) == curated
    # An image that was lost is made anew, without its curation; the others keep theirs.
    rows = list(read_manifest(out))
    (out / rows[0].output).unlink()
    assert translate(plan, dark(), out).written == 1
    assert (out / rows[0].output).read_bytes() == before[rows[0].output]
    assert [row.sha256 for row in read_manifest(out)][2] == rows[2].sha256
    undo(out)
    assert files(out) == before
    # A source that has changed since is not given back its former translation.
    scores = scored(root, out, {0: {0}, 1: {1}})
    curate(out, scores, MEND)
    (root / rows[0].source).write_bytes((root / rows[3].source).read_bytes())
    assert translate(make_plan(root, "day2night"), dark(), out).written == 1
    new = (out / rows[0].output).read_bytes()
    with pytest.raises(DatasetError, match=r"1 of 4 scored images have changed, .*0000-a.*score-translation again"):
        curate(out, scores, MEND)
    undo(out)
    assert (out / rows[0].output).read_bytes() == new
    assert (out / rows[1].output).read_bytes() == before[rows[1].output]
    assert not (out / "curated").exists()


def test_overwriting_a_translation_starts_anew(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    before = files(out)
    curate(out, scored(root, out, {0: {0}}, {2: 2}), MEND)
    translate(make_plan(root, "day2night"), dark(), out, overwrite=True)
    assert files(out) == before


def test_scores_of_other_images_are_refused_and_images_without_left_alone(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    scores = scored(root, out, {0: {0}})
    del scores.images[1:3]
    report = curate(out, scores)
    assert report.images["unscored"] == 2
    assert [row.dropped_boxes for row in read_manifest(out)] == [[0], [], [], []]
    undo(out)
    before = files(out)
    scores.images[0].sha256 = "0" * 64
    for settings in (CurateSettings(), MEND):
        with pytest.raises(DatasetError, match="1 of 2 scored images have changed"):
            curate(out, scores, settings)
    scores.images = []
    with pytest.raises(DatasetError, match="name none of its images"):
        curate(out, scores)
    with pytest.raises(DatasetError, match="no translated folder"):
        curate(root, scores)
    assert files(out) == before
    assert not (root / ".lock").exists()


def test_relight_does_not_mend_its_own_nor_makes_it_day(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    scores = scored(root, out, {0: {0}})
    manifest = out / "manifest.jsonl"
    good = manifest.read_text()
    for old, new, said in (('"dark"', '"relight"', "bring back the same"), ("day2night", "night2day", "only transl")):
        manifest.write_text(good.replace(old, new))
        with pytest.raises(ConfigError, match=said):
            curate(out, scores, MEND)
        assert manifest.read_text() == good.replace(old, new)


def test_what_cannot_be_mended_is_dropped_and_said(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    scores = scored(root, out, {0: {0}, 1: {0}, 2: {2}}, {0: 1})
    (root / "images/100k/train/0000-a.jpg").write_bytes(b"broken")
    (root / "images/100k/train/0001-a.jpg").unlink()
    report = curate(out, scores, MEND)
    rows = list(read_manifest(out))
    assert [row.dropped_boxes for row in rows] == [[0], [0], [], []]
    assert [row.weight for row in rows] == [0.75, 1.0, 1.0, 1.0]
    assert sorted(report.failed) == ["images/100k/train/0000-a.jpg", "images/100k/train/0001-a.jpg"]
    assert (report.images["mended"], report.boxes["car"].dropped) == (1, 2)
    again = files(out)
    assert curate(out, scores, MEND) == report
    assert files(out) == again


def test_a_full_disk_is_said_and_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = world(tmp_path)
    before = files(out)
    scores = scored(root, out, {0: {0}, 1: {0}, 2: {0}})
    write, count = curate_module.atomic_write_bytes, []

    def full(path: Path, data: bytes) -> None:
        count.append(1)
        if len(count) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(curate_module, "atomic_write_bytes", full)
    with pytest.raises(NightaugError, match="the disk is full; run nightaug curate again to go on, or with --undo"):
        curate(out, scores, MEND)
    monkeypatch.undo()
    assert curate(out, scores, MEND).images["mended"] == 3
    undo(out)
    assert files(out) == before


def test_without_hard_links_originals_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    root, out = world(tmp_path)
    before = files(out)
    monkeypatch.setattr(os, "link", refused)
    curate(out, scored(root, out, {0: {0}}), MEND)
    assert files(out) != before
    undo(out)
    assert files(out) == before


def test_ctrl_c_stops_between_images(tmp_path: Path) -> None:
    root, out = world(tmp_path, 8)
    before = files(out)
    scores = scored(root, out, {i: {0} for i in range(8)})

    @contextmanager
    def bar(title: str, total: int) -> Iterator[object]:
        yield lambda done, note: os.kill(os.getpid(), signal.SIGINT) if done == 1 else None

    with pytest.raises(Interrupted, match=r"of 8 images mended; run the same command again"):
        curate(out, scores, MEND, workers=1, bar=bar)  # type: ignore[arg-type]
    assert curate(out, scores, MEND).images["mended"] == 8
    undo(out)
    assert files(out) == before


def test_ctrl_c_at_the_end_of_a_part_reaches_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 2), tmp_path / "out"
    done, scored_by = pipeline.work, faithfulness._measure

    def last_image(*given: Any) -> Iterator[Any]:
        yield from done(*given)
        signal.raise_signal(signal.SIGINT)

    def last_score(*given: Any) -> Any:
        measured = scored_by(*given)
        signal.raise_signal(signal.SIGINT)
        return measured

    def run() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["translate", str(root), "--out", str(out), "--curate"])
        return int(stopped.value.code or 0), capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "work", last_image)
        code, text = run()
    assert (code, "stopped before curating; run the same command again" in text) == (1, True)
    assert not (out / "curated").exists()
    with monkeypatch.context() as patch:
        patch.setattr(faithfulness, "_measure", last_score)
        code, text = run()
    assert (code, "stopped before curating, the scores are made" in text) == (1, True)
    assert not (out / "curated/curation.json").exists()
    monkeypatch.setattr(faithfulness, "_measure", None)  # what was measured is not measured again
    assert run()[0] == 0
    assert (out / "curated/curation.json").exists()


def test_files_outside_are_never_touched(tmp_path: Path) -> None:
    root, out = world(tmp_path)
    scores = scored(root, out, {0: {0}})
    manifest = out / "manifest.jsonl"
    good = manifest.read_text()
    manifest.write_text(good.replace('"output":"images', '"output":"../in/images'))
    with pytest.raises(DatasetError, match="lies outside"):
        curate(out, scores)
    manifest.write_text(good.replace('"source":"images', '"source":"../in/images'))
    with pytest.raises(DatasetError, match="lies outside"):
        curate(out, scores, MEND)
    manifest.write_text(good)
    undo(out)
    (tmp_path / "other").mkdir()
    (out / "curated").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="is a link"):
        curate(out, scores, MEND)
    assert not list((tmp_path / "other").iterdir())


def test_fields_of_other_programs_stay(tmp_path: Path) -> None:
    root, out = world(tmp_path, 2)
    manifest = out / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"weight":1.0', '"night_boxes":true,"weight":1.0'))
    before = files(out)
    curate(out, scored(root, out, {0: {0}}))
    row = json.loads(manifest.read_text().splitlines()[0])
    assert row["night_boxes"] is True
    assert row["dropped_boxes"] == [0]
    undo(out)
    assert files(out) == before


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["curate", str(out), *arguments])
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    root, out = world(tmp_path)
    before = files(out)
    file = tmp_path / "scores.json"
    scores = scored(root, out, {0: {0}}, {1: 3})
    scores.images[2].boxes[2].kept = None
    write_scores(file, scores)
    code, text = run("--scores", str(file), "--dry-run")
    assert code == 0
    assert "pedestrian: 4 boxes (1 could not be measured), 0 mended, 1 dropped (25.0%)" in text
    assert files(out) == before
    code, text = run("--scores", str(file), "--set", "max_class_share=1")
    assert code == 0
    assert "4 images: 3 kept, 0 mended, 0 weighed, 1 dropped" in text
    assert "dropped 25.0% of images, 33.3% of boxes" in text
    assert "warning: over a tenth" in text
    assert "car: 8 boxes, 0 mended, 3 dropped (37.5%)" in text
    code, text = run("--scores", str(file), "--set", "lost_belwo=0.2")
    assert code == 2
    assert "Unknown key: 'lost_belwo' (did you mean 'lost_below'?)" in text
    assert run("--undo", "--scores", str(file))[0] == 2
    assert run("--undo") == (0, f"2 images of {out} are as they were\n")
    assert files(out) == before


def test_translate_curates_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out, made = scalabel(tmp_path / "in", ["daytime"] * 2), tmp_path / "out", []

    def score_translation(source: Path, translated: Path, *, out: Path, **options: object) -> TranslationScores:
        made.append(options)
        scores = scored(source, translated, {0: {0}})
        write_scores(out, scores)
        return scores

    fake = types.ModuleType("nightaug.curate.faithfulness")
    fake.score_translation = score_translation  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nightaug.curate.faithfulness", fake)
    monkeypatch.setattr("nightaug.clip.encoder.load_clip", lambda *given, **options: None)
    command = ["translate", str(root), "--out", str(out)]

    def run(*more: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*command, *more])
        return int(stopped.value.code or 0)

    assert run() == 0
    plain = files(out)
    assert run("--curate-mode", "mend") == 2  # by relight, of what relight has made
    assert run("--curate-mode", "weigh") == 0
    assert "car: 2 boxes, 0 mended, 1 dropped" in capsys.readouterr().out
    assert made[0]["clip"] == "none"
    curated = files(out)
    assert run("--curate-mode", "weigh") == 0  # scores of these images are there
    assert run() == 0
    assert files(out) == curated
    assert len(made) == 1
    assert run("--judge", "x") == 2
    assert run("--curate", "--clip", "tiny") == 0  # other scores: made of the images as they were translated
    assert made[1]["clip"] == "tiny"
    assert run("--overwrite") == 0
    assert files(out) == plain


def test_scores_made_with_relative_paths_serve_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalabel(tmp_path / "in", ["daytime"] * 2)
    monkeypatch.chdir(tmp_path)
    blank = Translator("blank", "day2night", None, True, lambda image, boxes, seed: np.full_like(image, 30))
    for out in ("out", "other"):
        translate(make_plan("in", "day2night"), blank, out)
    made = score_translation("in", "out", out="scores.json", gallery=False)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    scores = read_scores("../scores.json")
    assert scores == made
    assert curate("../out", scores, MEND, dry_run=True).images["mended"] == 2
    # Without a file of scores the folder itself says where its images are from.
    report = run_curate("../other", [{"mode": "mend"}])
    assert report is not None
    assert report.images["mended"] == 2


def test_scores_are_made_anew_for_another_judge_or_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = world(tmp_path, 1)
    made = []

    def score_translation(source: Path, translated: Path, *, out: Path, **options: object) -> TranslationScores:
        made.append(source)
        return scored(source, translated, {})

    fake = types.ModuleType("nightaug.curate.faithfulness")
    fake.score_translation = score_translation  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nightaug.curate.faithfulness", fake)
    monkeypatch.setattr("nightaug.detect.checkpoint.read_facts", lambda path: None)
    judge = tmp_path / "judge.safetensors"
    judge.write_bytes(b"one")
    for _ in range(2):
        run_curate(out, judge=judge)
    run_curate(out)  # whatever is there
    assert made == [root]
    judge.write_bytes(b"two")
    run_curate(out, judge=judge)
    assert len(made) == 2
    other = root.rename(tmp_path / "moved")
    run_curate(out)
    run_curate(out, judge=judge, source=other)
    assert made == [root, root, other]


def test_a_wrong_option_costs_no_curation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = world(tmp_path, 2)
    curate(out, scored(root, out, {0: {0}}), MEND)
    curated = files(out)
    (tmp_path / "empty").mkdir()
    judge = tmp_path / "judge.safetensors"
    judge.write_bytes(b"no weights")
    for options, message in (
        (("--real", str(tmp_path / "gone")), "no such file or folder"),
        (("--real", str(tmp_path / "empty")), "no images"),
        (("--source", str(tmp_path / "empty")), "nothing to score"),
        (("--judge", str(judge)), "cannot be read as safetensors"),
        (("--clip", "no-such-model:tag"), "expected a CLIP as"),
        (("--device", "no-such-device"), "no-such-device"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["curate", str(out), *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert files(out) == curated, options


def test_what_cannot_be_mended_is_not_scored_first(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    translate(make_plan(root, "day2night"), Translator.load("relight"), out)
    with pytest.raises(ConfigError, match="relight made these images"):
        run_curate(out, [{"mode": "mend"}])
    assert not (out / "curated").exists()


def test_what_curating_would_refuse_is_refused_before_translating(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "judge.safetensors").write_bytes(b"no weights")

    def run(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["translate", str(root), "--out", str(out), "--curate", *more])
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    night2day = ("--direction", "night2day", "--translator", "run")
    for options, message in (
        (("--judge", str(tmp_path / "gone")), "no such file or run folder"),
        (("--judge", str(tmp_path / "judge.safetensors")), "cannot be read as safetensors"),
        (("--real", str(tmp_path / "gone")), "no such file or folder"),
        (("--clip", "no-such-model:tag"), "expected a CLIP as"),
        (("--curate-mode", "mend", *night2day), "only repairs translations to night"),
        (("--images", str(tmp_path / "elsewhere")), "lies outside of"),
    ):
        code, text = run(*options)
        assert code == 2
        assert message in text
        assert not out.exists()
    code, text = run("--dry-run", "--curate-mode", "weigh")
    assert code == 0
    assert "would then be scored and curated, mode weigh" in text
