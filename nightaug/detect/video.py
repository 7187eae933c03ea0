"""Video files in and out, frame by frame: uint8 (H, W, 3) RGB as everywhere, never more than asked for in memory."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nightaug.data.formats.base import shown
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.images import ImageArray

#: File name endings that nightaug takes for videos (lower case).
VIDEO_SUFFIXES: frozenset[str] = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm"})
#: Frames a second where a file does not say, or says nonsense.
_DEFAULT_RATE, _HIGHEST_RATE = 30.0, 1000.0
#: Tried in this order. avc1 (H.264) plays everywhere, but most OpenCV builds cannot write it; mp4v (MPEG-4 part 2)
#: nearly all can, and all players but not the web browsers show it.
_CODECS = ("avc1", "mp4v")
_MATROSKA = b"\x1a\x45\xdf\xa3"
#: First boxes of MP4 and QuickTime files.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid")


def is_video(path: Path) -> bool:
    """Whether the name ends like a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def list_videos(folder: Path) -> list[Path]:
    """Video files directly in a folder, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if is_video(path) and path.is_file())
    except OSError:
        return []


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """OpenCV without its own words on standard error: what went wrong is said once, by us."""
    # Read by OpenCV when it opens its first video; -8 is FFmpeg's AV_LOG_QUIET.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is None:
        yield cv2
        return
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield cv2
    finally:
        logging.setLogLevel(level)


def _backend(cv2: Any) -> int:
    """FFmpeg where OpenCV has it: the general choice would take ``a%03d.mp4`` for a numbered series of images."""
    return int(cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends() else cv2.CAP_ANY)


def _check_header(path: Path) -> None:
    """Only containers: FFmpeg would also open playlists in disguise, which lead to other files and addresses."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise DatasetError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    if not head:
        raise DatasetError(f"{shown(path)}: the file is empty")
    riff = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    if not (riff or head[:4] == _MATROSKA or head[4:8] in _BOXES):
        raise DatasetError(f"{shown(path)}: not a video (expected an MP4, QuickTime, AVI, Matroska or WebM file)")


class VideoReader:
    """The frames of a video file, upright, in order.

    Attributes:
        width, height: of the first frame, pixels.
        rate: frames a second.
        count: how many frames the file says it has, 0 where it does not say; files err in this.
        end: why reading ended before what the file says, empty otherwise; set once :meth:`read` has given None.

    Raises:
        DatasetError: not a video, torn so that no frame can be decoded, or of a codec OpenCV cannot read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DatasetError(f"{shown(path)}: no such file")
        _check_header(path)
        with _quiet() as cv2:
            # Absolute: what looks like an address ("http:...") in a relative name is a file too.
            self._capture = cv2.VideoCapture(os.path.abspath(path), _backend(cv2))
            self._first = self._decode() if self._capture.isOpened() else None
        if self._first is None:
            self._capture.release()
            raise DatasetError(
                f"{shown(path)}: no frame can be decoded; the file is torn, or of a codec this OpenCV does not know "
                "(ffmpeg -i IN -c:v libx264 OUT.mp4 makes one it does)"
            )
        self.height, self.width = self._first.shape[:2]
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if math.isfinite(rate) and 0 < rate <= _HIGHEST_RATE else _DEFAULT_RATE
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = int(count) if math.isfinite(count) and 0 < count < 2**40 else 0
        self.done = 0
        self.end = ""

    def _decode(self) -> ImageArray | None:
        good, frame = self._capture.read()
        if not good or frame is None or frame.size == 0:
            return None
        if frame.ndim == 2:
            frame = np.repeat(frame[:, :, None], 3, axis=2)
        return np.ascontiguousarray(frame[:, :, 2::-1])  # OpenCV's BGR

    def read(self) -> ImageArray | None:
        """The next frame, None after the last."""
        frame, self._first = (self._first, None) if self._first is not None else (self._decode(), None)
        if frame is not None:
            self.done += 1
        elif self.done < self.count:
            self.end = f"{self.done:,} frames could be read, the file says {self.count:,}"
        return frame

    def __iter__(self) -> Iterator[ImageArray]:
        while (frame := self.read()) is not None:
            yield frame

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoWriter:
    """An .mp4 file that takes its name only at :meth:`finish`: before that, nothing is there, or the former one.

    Args:
        path: where it goes.
        width, height: of all frames, pixels. MPEG video has even sides: an odd one loses its last row or column.
        rate: frames a second.

    Raises:
        ConfigError: this OpenCV has no encoder for it.
        NightaugError: the place cannot be written.
    """

    def __init__(self, path: Path, width: int, height: int, rate: float) -> None:
        self.path, self.width, self.height = path, width, height
        self.written = 0
        # One name, so that a killed run leaves one file at most: the folder is one process's own.
        self._temporary = path.parent / ".video.part.mp4"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
        except OSError as error:
            raise NightaugError(f"cannot write {shown(path)}: {error.strerror}") from error
        with _quiet() as cv2:
            for codec in _CODECS:
                code = cv2.VideoWriter_fourcc(*codec)
                size = (width // 2 * 2, height // 2 * 2)
                self._writer = cv2.VideoWriter(str(self._temporary), _backend(cv2), code, rate, size)
                if self._writer.isOpened():
                    self._size = size
                    return
        self.discard()
        raise ConfigError(
            f"this OpenCV cannot write MP4 video (tried {' and '.join(_CODECS)} at {width}x{height}, {rate:g} frames "
            "a second); install the opencv-python-headless wheel, or leave drawing out (--no-draw)"
        )

    def write(self, frame: ImageArray) -> None:
        """Add a frame, uint8 (H, W, 3) RGB; one of another size than the video's is scaled."""
        import cv2

        if frame.shape[:2] != (self.height, self.width):
            frame = cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_AREA)
        width, height = self._size
        self._writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))
        self.written += 1

    def finish(self) -> None:
        """Close the file and give it its name.

        Raises:
            NightaugError: it does not hold what was written (the disk is full); nothing is left.
        """
        try:
            self._writer.release()
            self._check()
            os.replace(self._temporary, self.path)
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise NightaugError(f"cannot write {shown(self.path)}: {error.strerror}") from error
            raise

    def _check(self) -> None:
        # OpenCV's writer says nothing of a full disk, so the file itself is asked.
        with _quiet() as cv2:
            capture = cv2.VideoCapture(str(self._temporary), _backend(cv2))
            found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
        if found < self.written:
            raise NightaugError(
                f"cannot write {shown(self.path)}: {found:,} of {self.written:,} frames arrived; is the disk full?"
            )

    def discard(self) -> None:
        """Close without a result."""
        writer = getattr(self, "_writer", None)
        if writer is not None:
            writer.release()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)
