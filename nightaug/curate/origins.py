"""Where the source images are that a translated folder's manifest names."""

from __future__ import annotations

import os
from pathlib import Path

from nightaug.data.classes import Direction
from nightaug.errors import DatasetError
from nightaug.translate.plan import make_plan


def lies_inside(path: Path, root: Path) -> bool:
    """Whether a path, made absolute without following links, is a folder or lies below it."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


class Origins:
    """Finds the images of what was translated by the names that translating gave them.

    Most names are places in the source. Where the source is a label file with its images elsewhere they are not; then
    the source is read once more, and named as :func:`~nightaug.translate.plan.make_plan` does.

    Args:
        source: what was translated: a folder, a label file or an image.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.root = source if source.is_dir() else source.parent
        self._named: dict[Direction, dict[str, Path]] = {}

    def find(self, name: str, direction: Direction) -> Path:
        """The image of that name; where there is none, a place inside the source at which nothing lies.

        Args:
            name, direction: ``source`` and ``direction`` of a manifest's row.

        Raises:
            DatasetError: the name leads out of the source.
        """
        place = os.path.normpath(name)
        if os.path.isabs(place) or place == ".." or place.startswith("../"):
            raise DatasetError(f"{name}: a manifest's source lies outside of {self.root}")
        path = self.root / place
        if path.is_file():
            return path
        if direction not in self._named:
            self._named[direction] = self._names(direction)
        return self._named[direction].get(name, path)

    def _names(self, direction: Direction) -> dict[str, Path]:
        try:
            plan = make_plan(self.source, direction, all_times=True)
        except DatasetError:
            return {}
        return {item.source: item.frame.path for item in plan.items if item.frame.path is not None}
