"""Undoing gives the originals of mended images back whatever became of these, but not over a new translation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from helpers import scalabel

from nightaug.curate.curate import curate, undo
from nightaug.curate.job import run_curate
from nightaug.curate.scores import BoxScore, ImageScore, TranslationScores
from nightaug.curate.settings import CurateSettings
from nightaug.errors import DatasetError
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan, read_manifest
from nightaug.translate.translators import Translator

MEND = CurateSettings(mode="mend", max_class_share=1)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def dark(level: int = 4) -> Translator:
    return Translator("dark", "day2night", None, True, lambda image, boxes, seed: (image // 8 + level).astype(np.uint8))


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path, TranslationScores]:
    """Three day images, their translations, and scores which say that the first box of each is lost."""
    root, out = scalabel(tmp_path / "in", ["daytime"] * 3), tmp_path / "out"
    translate(make_plan(root, "day2night"), dark(), out)
    images = [
        ImageScore(
            output=row.output, source=row.source, sha256=hashlib.sha256((out / row.output).read_bytes()).hexdigest(),
            boxes=[BoxScore(index=0, category="car", xyxy=(4.0, 5.0, 30.0, 40.0), kept=0.1)],
        )
        for row in read_manifest(out)
    ]  # fmt: skip
    return root, out, TranslationScores(
        nightaug="0", source=str(root), translated=str(out), settings={}, summary={}, images=images
    )  # fmt: skip


def spoil(out: Path) -> None:
    """The first mended image is cut short, the second edited, the third lost."""
    cut, edited, lost = (out / row.output for row in read_manifest(out))
    cut.write_bytes(cut.read_bytes()[:100])
    edited.write_bytes(edited.read_bytes() + b"edited")
    lost.unlink()


def test_originals_of_damaged_images_come_back(world: tuple[Path, Path, TranslationScores]) -> None:
    _, out, scores = world
    before = files(out)
    curate(out, scores, MEND)
    spoil(out)
    said: list[str] = []
    run_curate(out, undone=True, say=said.append)
    assert files(out) == before
    assert said == [f"3 images of {out} are as they were"]


def test_damaged_images_are_mended_again_from_their_originals(world: tuple[Path, Path, TranslationScores]) -> None:
    _, out, scores = world
    before = files(out)
    curate(out, scores, MEND)
    mended = files(out)
    spoil(out)
    curate(out, scores, MEND)
    journal = "curated/journal.jsonl"
    assert {**files(out), journal: mended[journal]} == mended
    spoil(out)
    curate(out, scores, CurateSettings(lost_below=0.0))  # other settings undo first
    undo(out)
    assert files(out) == before


def test_an_image_damaged_before_the_manifest_was_written(world: tuple[Path, Path, TranslationScores]) -> None:
    _, out, scores = world
    before = files(out)
    curate(out, scores, MEND)
    (out / "manifest.jsonl").write_bytes(before["manifest.jsonl"])  # stopped just before its last step
    spoil(out)
    assert undo(out) == (3, 0)
    assert files(out) == before


def test_what_was_translated_anew_stays_and_is_counted(world: tuple[Path, Path, TranslationScores]) -> None:
    root, out, scores = world
    before = files(out)
    curate(out, scores, MEND)
    first, second, _ = (row.output for row in read_manifest(out))
    (out / first).unlink()
    translate(make_plan(root, "day2night"), dark(9), out)
    new = (out / first).read_bytes()
    assert new != before[first]
    (out / second).write_bytes(b"damaged")
    rows = (out / "manifest.jsonl").read_bytes().splitlines()
    said: list[str] = []
    run_curate(out, undone=True, say=said.append)
    assert said == [f"2 images of {out} are as they were; 1 translated anew since stay as they are"]
    after = files(out)
    assert after == {**before, first: new, "manifest.jsonl": after["manifest.jsonl"]}
    assert after["manifest.jsonl"].splitlines()[0] == rows[0]
    assert after["manifest.jsonl"].splitlines()[1:] == before["manifest.jsonl"].splitlines()[1:]


def test_nothing_is_given_up_where_an_original_is_gone(world: tuple[Path, Path, TranslationScores]) -> None:
    _, out, scores = world
    curate(out, scores, MEND)
    spoil(out)
    next((out / "curated/originals").rglob("*.original")).unlink()
    left = files(out)
    with pytest.raises(DatasetError, match=r"\.original is not there; remove"):
        undo(out)
    with pytest.raises(DatasetError, match=r"\.original is not there; remove"):
        curate(out, scores, MEND)
    assert files(out) == left
