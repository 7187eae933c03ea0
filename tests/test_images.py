from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import picture
from PIL import Image

from nightaug.errors import ImageError
from nightaug.images import (
    atomic_open,
    atomic_write_bytes,
    check_rgb,
    encode_image,
    image_description,
    image_size,
    letterbox,
    list_images,
    read_image,
    remove_leftovers,
    write_image,
)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "I", "F"])
def test_every_pixel_format_becomes_rgb(tmp_path: Path, mode: str) -> None:
    rgb = picture()
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    suffix = "jpg" if mode == "CMYK" else "tif" if mode in ("I", "F", "I;16") else "png"
    path = tmp_path / f"x.{suffix}"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    elif mode in ("I", "F"):
        Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32)).save(path)
    else:
        Image.fromarray(rgb).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == rgb.shape
    assert image.dtype == np.uint8
    reference = grey.mean() if mode not in ("RGBA", "P", "CMYK") else rgb.mean()
    assert abs(float(image.mean()) - float(reference)) < (12 if mode in ("CMYK", "1", "P") else 1.5)


def test_sixteen_bit_png_keeps_its_brightness(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.abs(read_image(tmp_path / "x.png")[:, :, 0].astype(int) - values // 257).max() <= 1


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_size_and_pixels_agree_in_every_format_with_orientation(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0, 60, 40)).save(tmp_path / f"x.{suffix}", exif=exif.tobytes())
    image = read_image(tmp_path / f"x.{suffix}")
    assert image_size(tmp_path / f"x.{suffix}") == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(tmp_path: Path, orientation: int) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:10, :10] = 255  # a mark in the corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "x.jpg", exif=exif.tobytes(), quality=95)
    upright = read_image(tmp_path / "x.jpg")
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    h, w = upright.shape[:2]
    assert (w, h) == ((60, 40) if orientation < 5 else (40, 60))
    assert image_size(tmp_path / "x.jpg") == (w, h)
    assert upright[5 if not corner[0] else h - 5, 5 if not corner[1] else w - 5].min() > 200


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_damaged_files_say_which_file_and_why(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        read_image(path)


def test_damaged_exif_is_an_error_not_a_crash(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(picture()).save(data, "JPEG", exif=exif.tobytes())
    raw = bytearray(data.getvalue())
    start = raw.index(b"Exif")
    outcomes = set()
    for at in range(start, start + 40):
        for value in (0, 255):
            broken = bytearray(raw)
            broken[at] = value
            (tmp_path / "x.jpg").write_bytes(broken)
            try:
                read_image(tmp_path / "x.jpg")
                image_size(tmp_path / "x.jpg")
                outcomes.add("read")
            except ImageError:
                outcomes.add("refused")
    assert "read" in outcomes


def test_names_of_any_length_the_system_takes_can_be_written(tmp_path: Path) -> None:
    name = "\U0001f303" * 62 + ".png"
    write_image(tmp_path / name, picture())
    assert read_image(tmp_path / name).shape == (64, 96, 3)


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_truncated_files_are_refused(tmp_path: Path, format: str) -> None:
    data = encode_image(picture(), format)  # type: ignore[arg-type]
    path = tmp_path / f"x.{format}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError):
        read_image(path)


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (40_000, 40_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="over the limit"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_encoding_keeps_pixels_and_description(tmp_path: Path, format: str) -> None:
    image = picture()
    write_image(tmp_path / f"x.{format}", image, description="synthetic")
    assert image_description(tmp_path / f"x.{format}") == "synthetic"
    difference = np.abs(read_image(tmp_path / f"x.{format}").astype(int) - image).mean()
    assert difference == 0 if format == "png" else difference < 6


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
        "x",
    ],
)
def test_wrong_arrays_say_what_was_expected(bad: object) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 array \(H, W, 3\), got"):
        check_rgb(bad)


def half_a_write(path: Path) -> None:
    with atomic_open(path) as stream:
        stream.write(b"half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    atomic_write_bytes(path, b"old")
    with pytest.raises(RuntimeError):
        half_a_write(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_written_files_have_the_permissions_of_plain_ones(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_many_writers_of_one_file_never_tear_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    blobs = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=atomic_write_bytes, args=(path, blob)) for blob in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in blobs


@pytest.mark.parametrize(("w", "h"), [(1280, 720), (100, 300), (7, 5)])
def test_letterbox_and_back(w: int, h: int) -> None:
    out, how = letterbox(np.full((h, w, 3), 9, np.uint8), 320, 256)
    assert out.shape == (256, 320, 3)
    boxes = np.array([[0, 0, w, h], [w / 4, h / 4, w / 2, h / 2]])
    inside = how.to_network(boxes)
    x1, y1, x2, y2 = inside[0].round().astype(int)
    assert (out[y1:y2, x1:x2] == 9).mean() > 0.99
    assert np.allclose(how.to_original(inside), boxes)


def test_list_images_is_sorted_and_skips_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", ".hidden.png", "note.txt", "a/b.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)] == ["a/b.webp", "a/c.png", "b.JPG"]


def test_only_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with atomic_open(tmp_path / "sub" / ("n" * 250)) as stream:
            stream.write(b"half")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = (tmp_path / "sub").iterdir()
    others = [tmp_path / name for name in (".mine.tmp", "a.abcdefgh.tmp", ".a.abcdefgh.tmp.jpg", ".hidden")]
    for path in others:
        path.write_bytes(b"x")
    assert remove_leftovers(tmp_path) == 1
    assert not left.exists()
    assert all(path.exists() for path in others)
    assert remove_leftovers(tmp_path / "absent") == 0
