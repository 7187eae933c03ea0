from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import picture, scalabel
from PIL import Image

from nightaug.cli import main
from nightaug.data.formats import open_dataset, write_labels
from nightaug.errors import ConfigError, DatasetError, ImageError, NightaugError
from nightaug.images import ImageArray, read_image, write_image
from nightaug.translate import job as jobs
from nightaug.translate import output as outputs
from nightaug.translate.job import run_job
from nightaug.translate.output import StorageOutput
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.storage import Storage, is_url, list_into
from nightaug.translate.translators import Translator


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty place in fsspec's memory."""
    url = "memory://bucket"
    yield url
    system = fsspec.filesystem("memory")
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)


def upload(folder: Path, url: str) -> str:
    storage = Storage(url)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


def content(place: Path | str) -> dict[str, bytes]:
    """Every visible file; the facts without the input, which may differ."""
    if isinstance(place, str):
        storage = Storage(place)
        found = {name: storage.read(name) for name in storage.sizes()}
    else:
        found = {
            p.relative_to(place).as_posix(): p.read_bytes()
            for p in place.rglob("*")
            if p.is_file() and not p.name.startswith(".")
        }
    facts = json.loads(found["translation.json"])
    del facts["input"]
    return dict(sorted(found.items())) | {"translation.json": json.dumps(facts).encode()}


def darker(function: Any = lambda image, boxes, seed: (image // 3).astype(np.uint8)) -> Translator:
    return Translator("darker", "day2night", None, False, function)


def test_urls_are_told_from_paths() -> None:
    assert all(map(is_url, ["s3://b/x", "file:///x", "simplecache::s3://b", "memory://x"]))
    assert not any(map(is_url, ["/x", "x/y", "C:/x", Path("s3/x"), "a b://x", ""]))


@pytest.mark.parametrize("from_url", [False, True])
@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_from_and_to_storage_as_from_and_to_folders(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, protocol: str, from_url: bool
) -> None:
    """``file://`` stands for file systems on other machines; meant for this one it becomes a path."""
    for module in (jobs, outputs):
        monkeypatch.setattr(module, "plain_path", lambda place: place)
    root = scalabel(tmp_path / "in", ["daytime", "night", "daytime", "daytime"])
    (root / "images/100k/train/0002-a.jpg").write_bytes(b"broken")
    base = bucket if protocol == "memory" else f"file://{tmp_path}/bucket"
    source: Path | str = upload(root, f"{base}/in") if from_url else root
    said: list[str] = []
    result = run_job(source, f"{base}/out", say=said.append)
    run_job(root, tmp_path / "out")
    assert result is not None
    assert (result.written, list(result.failed)) == (2, ["images/100k/train/0002-a.jpg"])
    reason = result.failed["images/100k/train/0002-a.jpg"]
    assert (
        reason.replace(str(source), "INPUT")
        == "INPUT/images/100k/train/0002-a.jpg: not an image, or the file is damaged"
    )
    there, here = content(f"{base}/out"), content(tmp_path / "out")
    for files in (there, here):  # the reason names the place
        files["translation.json"] = files["translation.json"].replace(str(root).encode(), str(source).encode())
    assert there == here
    assert said[-2] == f"2 translated in {said[-2].split()[3]} s {' '.join(said[-2].split()[5:7])} " + (
        f"0 were there, 1 skipped; in {base}/out"
    )
    again = run_job(source, f"{base}/out")
    assert again is not None
    assert (again.written, again.present) == (0, 2)


def test_labels_that_need_the_images_header_get_it(tmp_path: Path, bucket: str) -> None:
    """YOLO's boxes are fractions of the size; boxes drawn on an image stored sideways are turned."""
    root = scalabel(tmp_path / "a", ["daytime"])
    dataset = open_dataset(root)
    for format, place in (("yolo", "labels"), ("coco", "annotations.json")):
        other = tmp_path / format
        (frame,) = dataset.frames()
        assert frame.path is not None
        (other / "images").mkdir(parents=True)
        with Image.open(frame.path) as image:
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(other / "images" / frame.name, exif=exif.tobytes() if format == "coco" else b"")
        frame.width, frame.height = 96, 64
        write_labels(dataset.parts[0].labels, other / place, format=format)
        (want,) = make_plan(other, "day2night").items
        listing = tmp_path / f"listing-{format}"
        listing.mkdir()
        list_into(Storage(upload(other, f"{bucket}/{format}")), listing)
        (got,) = make_plan(listing, "day2night").items
        assert [box.xyxy for box in got.frame.boxes] == [box.xyxy for box in want.frame.boxes]
        assert (got.source, got.output, got.seed, got.inputs) == (want.source, want.output, want.seed, want.inputs)
        assert (got.frame.width, got.frame.height) == ((64, 96) if format == "coco" else (96, 64))


def test_a_listing_takes_no_room_and_stays_in_its_folder(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"{bucket}/in")
    storage.write("a.jpg", b"x" * 10_000_000)
    storage.write(".hidden/b.jpg", b"x")
    storage.write("movie.mp4", b"x")
    real = MemoryFileSystem.find

    def hostile(self: Any, path: str, **options: Any) -> Any:
        found = real(self, path, **options)
        if isinstance(found, dict):
            found |= {f"{path}/{name}": {"size": 9} for name in ("../../evil.jpg", "a\\..\\b.jpg")}
        return found

    monkeypatch.setattr(MemoryFileSystem, "find", hostile)
    folder = tmp_path / "deep" / "listing"
    folder.mkdir(parents=True)
    list_into(storage, folder)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.jpg"]
    status = (folder / "a.jpg").stat()
    assert status.st_size == 10_000_000
    assert status.st_blocks * 512 < 100_000


def test_a_single_image(tmp_path: Path, bucket: str) -> None:
    write_image(tmp_path / "x" / "street.png", picture())
    upload(tmp_path / "x", f"{bucket}/x")
    result = run_job(f"{bucket}/x/street.png", tmp_path / "out")
    assert result is not None
    assert result.written == 1
    assert read_image(tmp_path / "out" / "street.png").shape == (64, 96, 3)


def test_ctrl_c_and_death_keep_what_is_done(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scalabel(tmp_path / "in", ["daytime"] * 12)
    plan = make_plan(root, "day2night")
    calls: list[int] = []

    def dying(image: ImageArray, boxes: object, seed: int) -> ImageArray:
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError("the machine burns down")  # no finally of ours sends anything
        return image // 3

    monkeypatch.setattr(outputs, "_EVERY", 0.0)
    url = f"{bucket}/out"
    with pytest.raises(RuntimeError):
        translate(plan, darker(dying), StorageOutput(url), workers=1)
    names = Storage(url).sizes()
    sent = [name for name in names if name.startswith("manifest.lines/")]
    assert sent
    assert json.loads(Storage(url).read("translation.json"))["finished"] is False

    def interrupting(image: ImageArray, boxes: object, seed: int) -> ImageArray:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), 2)
        return image // 3

    calls.clear()

    stopped = translate(plan, darker(interrupting), StorageOutput(url), workers=1)
    assert stopped.stopped
    assert stopped.present == len(sent)
    assert not any(name.startswith("manifest.lines/") for name in Storage(url).sizes())
    again = translate(plan, darker(), StorageOutput(url))
    assert again.present == stopped.present + stopped.written
    translate(plan, darker(), tmp_path / "whole")
    assert content(url) == content(tmp_path / "whole")


def test_what_is_missing_is_made_again_and_others_are_refused(tmp_path: Path, bucket: str) -> None:
    root, url = scalabel(tmp_path / "in", ["daytime"] * 3), f"{bucket}/out"
    plan = make_plan(root, "day2night")
    translate(plan, darker(), StorageOutput(url))
    before = content(url)
    Storage(url).remove("images/100k/train/0001-a.jpg")
    assert translate(plan, darker(), StorageOutput(url)).written == 1
    assert content(url) == before
    other = Translator("other", "day2night", None, False, lambda image, boxes, seed: image)
    with pytest.raises(ConfigError, match=f"^{url} holds images made with translator darker, now it is other"):
        translate(plan, other, StorageOutput(url))
    assert content(url) == before
    Storage(url).write("notes.txt", b"mine")
    few = make_plan(root, "day2night", limit=1)
    assert translate(few, other, StorageOutput(url), overwrite=True).written == 1
    assert Storage(url).read("notes.txt") == b"mine"
    assert "images/100k/train/0001-a.jpg" not in Storage(url).sizes()
    write_image(tmp_path / "more" / "x.jpg", picture())
    more = make_plan(tmp_path / "more", "day2night")
    with pytest.raises(ConfigError, match=f"^{url} holds images/.* which is not in this input"):
        translate(more, other, StorageOutput(url))


def test_places_that_cannot_be_used_are_refused(tmp_path: Path, bucket: str) -> None:
    root = scalabel(tmp_path / "in", ["daytime"])
    url = upload(root, f"{bucket}/in")
    Storage(f"{bucket}/mine").write("x.txt", b"x")
    Storage(f"{bucket}/ab").write("prepare.json", b"{}")
    for source, out, words in [
        (url, f"{url}/out", "lies in the input"),
        (url, bucket, "lies in the input .* or around it"),
        (root, f"{bucket}/mine", "is not empty and holds no translation"),
        (root, f"{bucket}/ab", "holds a prepared dataset"),
        (root, "nosuch://x", "Protocol not known: nosuch"),
        ("nosuch://x", tmp_path / "out", "Protocol not known: nosuch"),
    ]:
        with pytest.raises(ConfigError, match=words):
            run_job(source, out)
    with pytest.raises(ConfigError, match="give the URL of the images as INPUT"):
        run_job(url, tmp_path / "out", images=tmp_path)
    with pytest.raises(DatasetError, match="memory://bucket/none: no such folder, or nothing in it"):
        run_job(f"{bucket}/none", tmp_path / "out")
    with pytest.raises(DatasetError, match=f"^{bucket}/mine: no images"):
        run_job(f"{bucket}/mine", tmp_path / "out")
    held = StorageOutput(f"{bucket}/out")
    with held.held(make_plan(root, "day2night")), pytest.raises(ConfigError, match="in use by another process"):
        run_job(root, f"{bucket}/out")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(ConfigError, match="s3:// needs a package that is not installed: Install s3fs"):
        Storage("s3://bucket/x").check()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/out"
    Storage(url).write("a/x.jpg", b"old")
    system = fsspec.filesystem("file")
    monkeypatch.setattr(type(system), "mv", lambda *arguments, **options: 1 // 0)
    with pytest.raises(OSError, match=r"x.jpg: integer division"):
        Storage(url).write("a/x.jpg", b"new")
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["x.jpg"]
    assert (tmp_path / "out" / "a" / "x.jpg").read_bytes() == b"old"
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"]), "day2night")
    with pytest.raises(NightaugError, match=r"cannot write to file://.*; images done so far are kept"):
        translate(plan, darker(), StorageOutput(f"file://{tmp_path}/other"))


def test_an_image_that_cannot_be_fetched_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"{bucket}/in")
    with pytest.raises(ImageError, match=r"memory://bucket/in/x.jpg: no such file"):
        storage.read_image("x.jpg")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *a, **o: 1 // 0)
    with pytest.raises(ImageError, match=r"memory://bucket/in/x.jpg: integer division"):
        storage.read_image("x.jpg")


def test_the_command_with_workers_in_other_processes(tmp_path: Path) -> None:
    """By a Ray cluster of its own, which needs a file system that other processes see."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    scalabel(tmp_path / "in", ["daytime"] * 3)
    source = f"file://{tmp_path}/in"
    with pytest.raises(SystemExit) as stopped:
        main(["translate", source, "--out", f"file://{tmp_path}/ray", "--engine", "ray", "--workers", "1"])
    assert stopped.value.code == 0
    run_job(source, tmp_path / "local")
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    for arguments in (["--address", "auto"], ["--engine", "ray", "--address", "127.0.0.1:1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["translate", source, "--out", str(tmp_path / "no"), *arguments])
        assert stopped.value.code == 2
