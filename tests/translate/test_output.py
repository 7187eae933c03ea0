"""Places that are given as URLs: what must not be written to, and what is left there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from helpers import scalabel

from nightaug.errors import ConfigError
from nightaug.translate.job import run_job
from nightaug.translate.output import StorageOutput
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.storage import check_urls_apart
from nightaug.translate.translators import Translator

DARKER = Translator("darker", "day2night", None, False, lambda image, boxes, seed: image // 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("{}", "file://{}/night"),
        ("{}", "local://{}/night"),
        ("file://{}", "{}"),
        ("file://{}", "{}/night"),
        ("file://{}", "file://{}/"),
        ("file://{}", "file://{}/../in/night"),
        ("{}", "file://{}"),
        ("{}", "file://{}/.."),
        ("simplecache::file://{}", "{}/night"),
        ("simplecache::file://{}", "file://{}/link/night"),
    ],
)
def test_urls_of_this_machine_are_no_way_into_the_input(tmp_path: Path, source: str, out: str) -> None:
    root = scalabel(tmp_path / "in", ["daytime"])
    (root / "link").symlink_to(root / "images")
    before = snapshot(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"lies in the input|lies around the input"):
            run_job(source.format(root), out.format(root), overwrite=overwrite)
    assert snapshot(tmp_path) == before


def test_an_output_here_by_url_follows_no_links_and_is_that_of_a_path(tmp_path: Path) -> None:
    root = scalabel(tmp_path / "in", ["daytime"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(root / "images")
    with pytest.raises(ConfigError, match="link that leads out"):
        run_job(f"file://{root}", f"file://{tmp_path}/out", overwrite=True)
    run_job(f"file://{root}", f"file://{tmp_path}/a")
    translate(make_plan(root, "day2night"), Translator.load(), f"file://{tmp_path}/a")
    run_job(root, tmp_path / "b")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_one_place_under_two_urls_is_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket(MemoryFileSystem):
        protocol = ("s3", "s3a")

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.rsplit("://", maxsplit=1)[-1]

    for name in Bucket.protocol:
        monkeypatch.setitem(_registry, name, Bucket)
    for source, out in [("s3://b/day", "s3a://b/day/night"), ("s3://b/day", "s3://b//day"), ("s3a://b/day/", "s3://b")]:
        with pytest.raises(ConfigError, match="lies in the input"):
            check_urls_apart(source, out)
    for source, out in [
        ("s3://b/day", "s3a://b/day-night"),
        ("s3://b/day", "memory://b/day"),
        ("/b/day", "s3://b/day"),
    ]:
        check_urls_apart(source, out)


def test_protocols_that_cannot_replace_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Copying(MemoryFileSystem):
        """Its ``mv`` is fsspec's own: a copy, then a removal."""

        protocol = "webdav"

    monkeypatch.setitem(_registry, "webdav", Copying)
    root = scalabel(tmp_path / "in", ["daytime"])
    for url in ("webdav://host/out", f"simplecache::file://{tmp_path}/out"):
        with pytest.raises(ConfigError, match=r"cannot be replaced in one step.*choose s3://"):
            run_job(root, url)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"]), "day2night")
    output, names = StorageOutput(f"file://{tmp_path}/out"), [f".{letter * 32}.tmp" for letter in "ab"]
    translate(plan, DARKER, output)
    for name in [*names, ".mine.tmp"]:
        (tmp_path / "out" / "images" / name).write_bytes(b"half")
    os.utime(tmp_path / "out" / "images" / names[0], (0, 0))
    os.utime(tmp_path / "out" / "images" / ".mine.tmp", (0, 0))
    translate(plan, DARKER, output)
    # The young one may be another machine's, at this moment.
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.tmp")) == [names[1], ".mine.tmp"]


def test_without_a_home_it_goes_on_without_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"]), "day2night")
    assert translate(plan, DARKER, StorageOutput("memory://no-home/out")).written == 1
