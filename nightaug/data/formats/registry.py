"""The two dicts of formats, and reading and writing through them.

``read_labels(path)`` gives a :class:`LabelSet`; ``write_labels(labels, out)`` writes it back in its own format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nightaug.data.formats import bdd100k, coco, coco_read, scalabel, voc, yolo
from nightaug.data.formats.base import ImageIndex, LabelSet, Problems, resolve
from nightaug.data.formats.detect import detect_format
from nightaug.data.frames import Frame
from nightaug.data.packed import Keep
from nightaug.errors import ConfigError


class Writer(Protocol):
    def __call__(
        self,
        frames: Sequence[Frame],
        out: Path,
        classes: Sequence[str] = (),
        layout: str = "",
        meta: dict[str, Any] | None = None,
    ) -> list[Path]: ...


class Reader(Protocol):
    def __call__(self, path: Path, images: ImageIndex | None = None, keep: Keep = ...) -> LabelSet: ...


READERS: dict[str, Reader] = {
    "bdd100k": bdd100k.read,
    "scalabel": scalabel.read,
    "coco": coco_read.read,
    "voc": voc.read,
    "yolo": yolo.read,
}
WRITERS: dict[str, Writer] = {
    "bdd100k": bdd100k.write,
    "scalabel": scalabel.write,
    "coco": coco.write,
    "voc": voc.write,
    "yolo": yolo.write,
}
#: Formats whose ``write`` wants a folder; the others want one .json file (``bdd100k`` by its layout).
FOLDER_FORMATS = frozenset({"voc", "yolo"})


def check_format(name: str | None) -> None:
    """Raise a ConfigError for a format nightaug does not read."""
    if name is not None and name not in READERS:
        raise ConfigError(f"--format {name}: unknown; expected one of {', '.join(READERS)}")


def read_labels(path: str | Path, images: str | Path | ImageIndex | None = None, format: str | None = None) -> LabelSet:
    """Read a label file or a folder of label files.

    Args:
        path: what to read.
        images: the folder of images; then every frame's ``path`` is set where the image exists. YOLO needs it.
        format: a key of ``READERS``; None finds it by looking.

    Raises:
        DatasetError: it cannot be read; the message says what, where, and what to do.
        ConfigError: unknown ``format``.
    """
    check_format(format)
    path = Path(path)
    name = format or detect_format(path)
    index = images if isinstance(images, ImageIndex) or images is None else ImageIndex(Path(images))
    labels = READERS[name](path, index)
    if index is not None:
        resolve(labels, index)
        if index is not images:
            labels.problems.extend(index.problems)
    return labels


def iter_labels(path: str | Path, format: str | None = None, problems: Problems | None = None) -> Iterator[Frame]:
    """Frames one after the other; for BDD100K's and Scalabel's lists in little memory, whatever the file's size.

    Raises:
        DatasetError, ConfigError: as :func:`read_labels`, partly while iterating.
    """
    check_format(format)
    path = Path(path)
    name = format or detect_format(path)
    if path.is_file() and (name == "scalabel" or (name == "bdd100k" and bdd100k.is_list(path))):
        return scalabel.iterate(path, problems)
    labels = READERS[name](path, None)
    if problems is not None:
        problems.extend(labels.problems)
    return iter(labels.frames)


def write_labels(
    labels: LabelSet, out: str | Path, frames: Sequence[Frame] | None = None, format: str | None = None
) -> list[Path]:
    """Write a label set in its own format and layout.

    Args:
        out: a .json file, or a folder where the format has one file an image.
        frames: what to write instead of ``labels.frames`` (changed copies of them).
        format: another format to write in.

    Returns:
        The files written, each of them atomically.
    """
    check_format(format)
    name = format or labels.format
    same = name == labels.format
    chosen = labels.frames if frames is None else frames
    layout = labels.layout if same else {"bdd100k": "list", "scalabel": "list"}.get(name, "")
    return WRITERS[name](chosen, Path(out), labels.classes, layout, labels.meta if same else None)
