"""Videos in and out."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from nightaug.detect import video
from nightaug.detect.video import VideoReader, VideoWriter, is_video, list_videos
from nightaug.errors import ConfigError, DatasetError, NightaugError


def _clip(
    path: Path, frames: int = 10, width: int = 64, height: int = 48, rate: float = 12.5, codec: str = "MJPG"
) -> Path:
    with video._quiet():  # FFmpeg's own words are turned off when it is first used in a process
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for at in range(frames):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, :, 2] = 20 * at % 256  # BGR: red grows
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "mp4v"), ("a.mov", "mp4v")]
)
def test_all_frames_in_order_as_rgb(tmp_path: Path, name: str, codec: str) -> None:
    with VideoReader(_clip(tmp_path / name, codec=codec)) as reader:
        assert (reader.width, reader.height, reader.rate, reader.count) == (64, 48, 12.5, 10)
        reds = []
        while (frame := reader.read()) is not None:
            assert frame.shape == (48, 64, 3)
            assert frame.dtype == np.uint8
            assert frame[..., 2].mean() < 12  # blue
            reds.append(float(frame[..., 0].mean()))
        assert reads_as(reds)
        assert reader.done == 10
        assert reader.end == ""
        assert reader.read() is None


def reads_as(reds: list[float]) -> bool:
    return len(reds) == 10 and all(abs(red - 20 * at) < 8 for at, red in enumerate(reds))


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.mp4"
    writer = VideoWriter(path, 64, 48, 12.5)
    for at in range(10):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 0] = 20 * at
        writer.write(frame)
        assert not path.exists()
    writer.finish()
    assert [entry.name for entry in path.parent.iterdir()] == ["out.mp4"]
    with VideoReader(path) as reader:
        assert (reader.width, reader.height, reader.rate) == (64, 48, 12.5)
        reds = [float(frame[..., 0].mean()) for frame in reader]
        assert reads_as(reds)


def test_odd_sides_lose_a_pixel_and_other_sizes_are_scaled(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 65, 49, 10)
    writer.write(np.full((49, 65, 3), 200, np.uint8))
    writer.write(np.full((20, 30, 3), 200, np.uint8))
    writer.finish()
    with VideoReader(tmp_path / "out.mp4") as reader:
        frames = list(reader)
        assert len(frames) == 2
        assert all(frame.shape == (48, 64, 3) and abs(frame.mean() - 200) < 8 for frame in frames)


def test_a_discarded_video_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    writer = VideoWriter(path, 64, 48, 10)
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.discard()
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_a_full_disk_is_noticed(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 64, 48, 10)
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.written = 5  # as if four frames had not arrived
    with pytest.raises(NightaugError, match="1 of 5 frames arrived"):
        writer.finish()
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_CODECS", ("qqqq", "zzzz"))
    with pytest.raises(ConfigError, match=r"cannot write MP4 video .*--no-draw") as error:
        VideoWriter(tmp_path / "out.mp4", 64, 48, 10)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def _torn(path: Path) -> None:
    whole = _clip(path.with_name("whole.mp4"), codec="mp4v").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("#EXTM3U\n#EXTINF:1\n/etc/passwd\n"), "not a video"),
        (lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"), "not a video"),
        (lambda path: path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200)), "no frame can be decoded"),
        (_torn, "no frame can be decoded"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: None, "no such file"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, make: object, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.mp4"
    make(path)  # type: ignore[operator]
    capfd.readouterr()
    with pytest.raises(DatasetError, match=message) as error:
        VideoReader(path)
    assert "\n" not in str(error.value)
    assert "bad.mp4" in str(error.value)
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg add nothing of their own


def test_a_file_that_ends_early_gives_its_frames_and_says_so(tmp_path: Path) -> None:
    data = _clip(tmp_path / "whole.mkv", frames=200, codec="mp4v").read_bytes()
    (tmp_path / "torn.mkv").write_bytes(data[: len(data) * 2 // 3])
    with VideoReader(tmp_path / "torn.mkv") as reader:
        frames = sum(1 for _ in reader)
        assert 10 < frames < 200
        assert reader.done == frames
        assert f"{frames} frames could be read" in reader.end


def test_nonsense_in_the_header_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _clip(tmp_path / "a.avi")

    class Liar:
        def __init__(self, *arguments: object) -> None:
            self.capture = original(*arguments)

        def get(self, which: int) -> float:
            return {cv2.CAP_PROP_FPS: float("nan"), cv2.CAP_PROP_FRAME_COUNT: -9.2e18}[which]

        def __getattr__(self, name: str) -> object:
            return getattr(self.capture, name)

    original = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Liar)
    with VideoReader(path) as reader:
        assert reader.count == 0
        assert reader.rate == 30
        assert sum(1 for _ in reader) == 10
        assert reader.end == ""


def test_names_that_look_like_patterns_or_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a%03d.avi", "concat:b.avi", "a\nb.avi", "ä.avi"):
        os.rename(_clip(tmp_path / "plain.avi"), name)
        with VideoReader(Path(name)) as reader:
            assert sum(1 for _ in reader) == 10


def test_videos_are_known_by_their_names(tmp_path: Path) -> None:
    assert is_video(Path("a.MP4"))
    assert is_video(Path("a.webm"))
    assert not is_video(Path("a.jpg"))
    _clip(tmp_path / "b.avi")
    (tmp_path / "c.txt").touch()
    assert [path.name for path in list_videos(tmp_path)] == ["b.avi"]
    assert list_videos(tmp_path / "none") == []
