"""Whose files are in ``--out``: strangers' stay, a failed prepare changes nothing, two at once do not meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nightaug.data.domains import prepare
from nightaug.errors import ConfigError, DatasetError
from nightaug.runs import lock_folder


def save(path: Path, level: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-5, 5, (48, 64, 3))
    Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8)).save(path)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def folders(root: Path, number: int = 3, start: int = 0) -> dict[str, Any]:
    """A day folder with masks and a night folder, as arguments of prepare."""
    for side, level in (("a", 150), ("b", 20)):
        for i in range(start, start + number):
            save(root / side / f"{side}{i}.jpg", level, i)
            if side == "a":
                save(root / side / f"{side}{i}_mask.png", 255, i)
    return {"a": root / "a", "b": root / "b"}


def test_overwrite_keeps_strangers_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out=out, split="1:0:0", **folders(tmp_path / "one"))
    assert (out / "train/A_extra/beside/a0_mask.png").exists()
    mine = (
        "train/A/mine.jpg",
        "train/notes.md",
        "annotations/mywork/a.txt",
        "train/A_extra/beside/my_mask.png",
        "x.py",
    )
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    second = folders(tmp_path / "two", 2, 7)
    prepare(out=out, split="1:0:0", overwrite=True, **second)
    prepare(out=tmp_path / "fresh", split="1:0:0", **second)
    after = tree(out)
    assert all(after.pop(name) == b"mine" for name in mine)
    fresh = tree(tmp_path / "fresh")
    assert json.loads(after.pop("counts.json"))["files_from_elsewhere"] == 1
    del fresh["counts.json"]
    assert after == fresh


def test_overwrite_after_an_interruption_takes_the_half_away(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(step: str, done: int, total: int) -> None:
        if step == "write annotations":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(out=out, split="1:0:0", progress=stop, **folders(tmp_path / "one"))
    assert (out / "train/A/a0.jpg").exists()
    second = folders(tmp_path / "two", 2, 7)
    prepare(out=out, split="1:0:0", overwrite=True, **second)
    prepare(out=tmp_path / "fresh", split="1:0:0", **second)
    assert tree(out) == tree(tmp_path / "fresh")


def unreadable(root: Path) -> dict[str, Any]:
    for side in "ab":
        (root / side).mkdir(parents=True)
        (root / side / "x.jpg").write_bytes(b"no image")
    return {"a": root / "a", "b": root / "b"}


def test_a_failed_prepare_changes_nothing(tmp_path: Path) -> None:
    bad = unreadable(tmp_path / "bad")
    with pytest.raises(DatasetError, match="none of 2 frames"):
        prepare(out=tmp_path / "deep/new", **bad)
    assert not (tmp_path / "deep").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").write_text("mine")
    for name, expected in (("empty", []), ("used", ["thesis.tex"])):
        with pytest.raises(DatasetError, match="none of 2 frames"):
            prepare(out=tmp_path / name, overwrite=True, **bad)
        assert list(tree(tmp_path / name)) == expected
    good = folders(tmp_path / "good")
    prepare(out=tmp_path / "out", **good)
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match="none of 2 frames"):
        prepare(out=tmp_path / "out", overwrite=True, **bad)
    for path in (tmp_path / "good").rglob("*.jpg"):
        path.unlink()
        path.write_bytes(b"broken since")
    with pytest.raises(DatasetError, match="none of 6 frames"):
        prepare(out=tmp_path / "out", **good)
    assert tree(tmp_path / "out") == before


def test_two_at_once(tmp_path: Path) -> None:
    source = folders(tmp_path / "one")
    out = tmp_path / "out"
    with lock_folder(out), pytest.raises(ConfigError, match="in use"):
        prepare(out=out, **source)
    assert set(tree(out)) == {".lock"}
    with lock_folder(out):
        prepare(out=out, dry_run=True, **source)
    prepare(out=out, **source)
    prepare(out=tmp_path / "dry", dry_run=True, **source)
    assert not (tmp_path / "dry").exists()


def test_manifests_of_others_lead_nowhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out=out, **folders(tmp_path / "one"))
    (tmp_path / "victim.jpg").write_text("mine")
    with open(out / "manifest.jsonl", "a") as file:
        file.write('{"file": "train/../../victim.jpg"}\n{"file": "' + str(tmp_path / "victim.jpg") + '"}\n[]\n')
    prepare(out=out, overwrite=True, seed=1, **folders(tmp_path / "one"))
    assert (tmp_path / "victim.jpg").exists()
