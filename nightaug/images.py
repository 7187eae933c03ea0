"""Images in and out of files: always uint8 (H, W, 3) RGB inside nightaug, whatever the file holds.

Decoding applies the EXIF orientation, so that pixels and boxes are those a viewer shows; grey, palette,
alpha (dropped), CMYK and 16-bit files all become RGB. Writing is atomic: a reader never sees half a file.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from nightaug.errors import ImageError

ImageArray = NDArray[np.uint8]
ImageFormat = Literal["jpg", "png", "webp"]

#: File name endings that nightaug takes for images (lower case).
IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
#: Largest image that is decoded, in pixels (width times height): a guard against decompression bombs.
MAX_PIXELS = 100_000_000

_ENCODER: dict[str, str] = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
#: What Pillow's decoders and its EXIF reader raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
#: EXIF orientations that turn the image by a quarter.
SIDEWAYS = frozenset({5, 6, 7, 8})
#: A PNG without these has no orientation, and asking Pillow for it would decode the whole image.
_PNG_EXIF = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})

#: What :func:`atomic_open` calls its temporary files.
_TEMPORARY = re.compile(r"\..*\.[a-z0-9_]{8}\.tmp", re.DOTALL)

# Our own limit is checked on the header before any pixel is decoded; Pillow's would warn below it.
Image.MAX_IMAGE_PIXELS = None


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and the folders below it, sorted; other files and hidden ones are ignored."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


@contextmanager
def _opened(path: Path | str, max_pixels: int, data: bytes | None = None) -> Iterator[Image.Image]:
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise ImageError(f"{path}: the image is empty ({width}x{height})")
            if width * height > max_pixels:
                raise ImageError(
                    f"{path}: {width}x{height} is over the limit of {max_pixels:,} pixels; resize the image first"
                )
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image, or the file is damaged") from error
    except _DECODING_ERRORS as error:
        raise ImageError(f"{path}: cannot be decoded ({str(error) or type(error).__name__})") from error


def _to_rgb(image: Image.Image) -> ImageArray:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey files; mode I and F are how Pillow opens some of them, values may still be 8 bit.
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if values.max(initial=0.0) > 255 else 1.0
        grey = np.clip(np.nan_to_num(values) / scale, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode one image file.

    Returns:
        uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    Raises:
        ImageError: the file is missing, damaged, truncated, empty, or over ``max_pixels``.
    """
    with _opened(Path(path), max_pixels) as image:
        return _upright_rgb(image)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode the bytes of an image file, as :func:`read_image`.

    Args:
        name: what errors call it.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with _opened(name, max_pixels, data) as image:
        return _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> ImageArray:
    if image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return _to_rgb(image)
    return _to_rgb(ImageOps.exif_transpose(image))


def stored_size(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """Width and height in pixels as stored, and the EXIF orientation (1 to 8), from the header alone.

    Raises:
        ImageError: as :func:`read_image`, as far as the header tells.
    """
    with _opened(Path(path), max_pixels) as image:
        if image.format == "PNG" and _PNG_EXIF.isdisjoint(image.info):
            return (*image.size, 1)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        tags: Any = getattr(image, "tag_v2", None)  # TIFF: Pillow's size is the upright one there
        width, height = (tags[256], tags[257]) if tags else image.size
        return int(width), int(height), int(orientation) if orientation in range(1, 9) else 1


def image_size(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, from the header alone.

    Raises:
        ImageError: as :func:`read_image`, as far as the header tells.
    """
    width, height, orientation = stored_size(path, max_pixels)
    return (height, width) if orientation in SIDEWAYS else (width, height)


def check_rgb(image: Any) -> ImageArray:
    """The array itself if it is uint8 (H, W, 3) with at least one pixel.

    Raises:
        ValueError: otherwise, saying what was expected and what came.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected a uint8 array (H, W, 3), got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected a uint8 array (H, W, 3), got {image.dtype} {image.shape}")
    return image


def image_format(path: str | os.PathLike[str]) -> ImageFormat:
    """The format nightaug writes for a file name: png and webp stay, everything else becomes jpg."""
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        return "png"
    return "webp" if suffix == ".webp" else "jpg"


def encode_image(image: ImageArray, format: ImageFormat, quality: int = 95, description: str | None = None) -> bytes:
    """Encode uint8 (H, W, 3) RGB.

    Args:
        format: ``jpg``, ``png`` or ``webp``.
        quality: 1 to 100 for jpg and webp; png is lossless.
        description: text kept in the file's metadata (EXIF ``ImageDescription``, PNG ``Description``).

    Raises:
        ValueError: unknown format or wrong array.
        ImageError: the format cannot hold the image (WebP ends at 16,383 px a side, JPEG at 65,535).
    """
    if format not in _ENCODER:
        raise ValueError(f"expected format jpg, png or webp, got {format!r}")
    check_rgb(image)
    options: dict[str, Any] = {}
    if format == "png":
        options["compress_level"] = 1  # a quarter of the time of the default for some 10% more bytes
        if description:
            info = PngImagePlugin.PngInfo()
            info.add_text("Description", description)
            info.add_text("Software", "nightaug")
            options["pnginfo"] = info
    else:
        options["quality"] = quality
        if format == "jpg":
            options["subsampling"] = "4:2:0" if quality < 90 else "4:4:4"
        if description:
            exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = description
            exif[ExifTags.Base.Software] = "nightaug"
            options["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, _ENCODER[format], **options)
    except (OSError, ValueError) as error:
        height, width = image.shape[:2]
        raise ImageError(f"{width}x{height} pixels cannot be written as {format}; use another --format") from error
    return buffer.getvalue()


def image_description(path: str | os.PathLike[str]) -> str | None:
    """The description :func:`encode_image` left in a file, or None."""
    with _opened(Path(path), MAX_PIXELS) as image:
        text = image.getexif().get(ExifTags.Base.ImageDescription) or image.info.get("Description")
    return str(text) if text else None


@contextmanager
def atomic_open(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; it takes the name only when the block ends without error.

    The folder is made if it is missing. Two writers of one path do not tear it: the last rename wins.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Only a part of a long name: with its own additions the temporary one must still fit into 255 bytes.
    start = target.name.encode("utf-8", "ignore")[:80].decode("utf-8", "ignore")
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{start}.", suffix=".tmp")
    try:
        # mkstemp makes files private; give them what a plain open() would have given.
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes were writing by :func:`atomic_open` below ``folder``; returns how many files.

    Only for who holds the folder against other processes: a file that is being written looks just the same.
    """
    found: list[str] = []
    pending = [str(folder)] if folder.is_dir() else []
    while pending:
        # Nothing is kept of the other files: there may be 100,000 of them.
        with suppress(PermissionError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif _TEMPORARY.fullmatch(entry.name) and entry.is_file():
                    found.append(entry.path)
    for path in found:
        Path(path).unlink(missing_ok=True)
    return len(found)


def _umask() -> int:
    # Reading the umask means setting it; done once, at the first write, not per file.
    global _UMASK
    if _UMASK is None:
        _UMASK = os.umask(0)
        os.umask(_UMASK)
    return _UMASK


_UMASK: int | None = None


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is either the old or the new one, never a part."""
    with atomic_open(path, "wb") as stream:
        stream.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """UTF-8 text, as :func:`atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_image(
    path: str | os.PathLike[str], image: ImageArray, quality: int = 95, description: str | None = None
) -> None:
    """Encode by the file name's ending (see :func:`image_format`) and write atomically."""
    atomic_write_bytes(path, encode_image(image, image_format(path), quality, description))


class Letterbox(NamedTuple):
    """How an image was fitted into a square or rectangle: ``network = original * scale + pad``."""

    scale: float
    pad_x: float
    pad_y: float
    width: int  # of the original, pixels
    height: int

    def to_network(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """xyxy (P, 4) in pixels of the original to pixels of the network's input."""
        return np.asarray(boxes, np.float64).reshape(-1, 4) * self.scale + [self.pad_x, self.pad_y] * 2

    def to_original(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """xyxy (P, 4) in pixels of the network's input to pixels of the original, cut to the image."""
        b = (np.asarray(boxes, np.float64).reshape(-1, 4) - [self.pad_x, self.pad_y] * 2) / self.scale
        return np.clip(b, 0, [self.width, self.height] * 2)


def letterbox(image: ImageArray, width: int, height: int, fill: int = 114) -> tuple[ImageArray, Letterbox]:
    """Scale to fit ``width`` x ``height`` with the aspect ratio kept, the rest filled with grey ``fill``.

    Returns:
        uint8 (height, width, 3) and the :class:`Letterbox` that maps boxes there and back.
    """
    import cv2

    check_rgb(image)
    h, w = image.shape[:2]
    scale = min(width / w, height / h)
    new_w, new_h = max(1, round(w * scale)), max(1, round(h * scale))
    left, top = (width - new_w) // 2, (height - new_h) // 2
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.full((height, width, 3), fill, np.uint8)
    out[top : top + new_h, left : left + new_w] = cv2.resize(image, (new_w, new_h), interpolation=shrink)
    return out, Letterbox(scale, float(left), float(top), w, h)
