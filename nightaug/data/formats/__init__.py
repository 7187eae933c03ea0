"""Readers and writers of label formats: one file a format, found by looking.

``open_dataset(folder)`` finds and reads a whole dataset; ``read_labels(path)`` gives the :class:`LabelSet` of one
label file or folder, and ``write_labels(labels, out)`` writes it back in its own format.
"""

from nightaug.data.formats.base import ImageIndex, LabelSet, Problem, Problems, resolve
from nightaug.data.formats.detect import detect_format
from nightaug.data.formats.discover import Dataset, Part, open_dataset
from nightaug.data.formats.registry import (
    FOLDER_FORMATS,
    READERS,
    WRITERS,
    Reader,
    Writer,
    iter_labels,
    read_labels,
    write_labels,
)
from nightaug.data.formats.tree import TRANSLATION

__all__ = [
    "FOLDER_FORMATS",
    "READERS",
    "TRANSLATION",
    "WRITERS",
    "Dataset",
    "ImageIndex",
    "LabelSet",
    "Part",
    "Problem",
    "Problems",
    "Reader",
    "Writer",
    "detect_format",
    "iter_labels",
    "open_dataset",
    "read_labels",
    "resolve",
    "write_labels",
]
