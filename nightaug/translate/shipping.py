"""What travels to other machines: items, and a translator with its weights, so that no disk need be shared for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from nightaug.errors import CheckpointError, ImageError
from nightaug.translate.plan import Item, ManifestRow
from nightaug.translate.translators import RELIGHT, Translator, relights


class Shipped(NamedTuple):
    """A translator on its way to a worker: its weights travel along, no disk needs to be shared.

    ``load`` makes a translator of ``source``; ``files`` are the weights' names and bytes, none where the source is no
    file; ``name`` is what the manifest calls it.
    """

    load: Callable[[str], Translator]
    source: str
    files: dict[str, bytes]
    name: str

    def unpack(self) -> Translator:
        """Load it, in the worker."""
        if not self.files:
            return replace(self.load(self.source), name=self.name)
        with tempfile.TemporaryDirectory(prefix="nightaug-") as folder:
            for name, data in self.files.items():
                Path(folder, name).write_bytes(data)
            return replace(self.load(str(Path(folder, next(iter(self.files))))), name=self.name)


def ship(load: Callable[[str], Translator], source: str, name: str) -> Shipped:
    """Pack a translator for the workers.

    Args:
        load: makes a translator of a source, such as a partial :meth:`Translator.load`.
        source: ``relight``, a file of fit-relight, a run folder, a weight file or an exported file.
        name: of the translator as the manifest has it.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    if source == RELIGHT:
        return Shipped(load, source, {}, name)
    from nightaug.cyclegan.checkpoint import find_weights
    from nightaug.translate.backends.files import exported_file

    weights = Path(source) if relights(source) else exported_file(Path(source)) or find_weights(Path(source))
    # OpenVINO keeps the numbers beside the graph.
    beside = [weights.with_suffix(".bin")] if weights.suffix == ".xml" else []
    try:
        files = {path.name: path.read_bytes() for path in [weights, *beside]}
    except OSError as error:
        raise CheckpointError(f"{weights}: cannot be read ({error.strerror})") from error
    return Shipped(load, source, files, name)


def elsewhere(item: Item) -> Item:
    """An item for a process with another working folder."""
    path = item.frame.path
    if path is None or path.is_absolute():
        return item
    return item._replace(frame=msgspec.structs.replace(item.frame, path=Path(os.path.abspath(path))))


def from_elsewhere(item: Item, outcome: ManifestRow | ImageError) -> ManifestRow | ImageError:
    """What became of an item there, in the words that are used here."""
    path = item.frame.path
    if isinstance(outcome, ImageError) and path is not None and not path.is_absolute():
        return ImageError(str(outcome).replace(os.path.abspath(path), str(path)))
    return outcome
