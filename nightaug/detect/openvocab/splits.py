"""Which classes have boxes to learn from and which have none: published splits, a file's, or the user's own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nightaug.config import load_yaml
from nightaug.data.classes import BDD100K_CLASSES, canonical_classes
from nightaug.errors import ConfigError

#: How like a known class a name must be (difflib's ratio) to be taken for a slip: "trcuk" is, "ambulance" is not.
_SLIP = 0.8


class ClassSplit(NamedTuple):
    """A division of class names, canonical, without doubles.

    Attributes:
        name: of the published split or its file; ``own`` where the user named the classes.
        seen: classes with labelled boxes ("base"), only those that the dataset knows.
        unseen: classes without ("novel"), in the order given.
    """

    name: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Seen classes, then unseen ones."""
        return (*self.seen, *self.unseen)


def published_splits() -> dict[str, dict[str, list[str]]]:
    """Name -> ``{"seen", "unseen"}`` of the splits that ship with nightaug, as their papers write the classes.

    COCO 48/17 (Bansal et al., 2018) and 65/15 (Rahman et al., 2020), VOC 16/4, DIOR 16/4.
    """
    text = (resources.files("nightaug") / "configs" / "splits.json").read_text("utf-8")
    splits: dict[str, dict[str, list[str]]] = json.loads(text)
    return splits


def class_split(name_or_file: str | None, unseen: Sequence[str] | None, known: Sequence[str]) -> ClassSplit:
    """The seen and unseen classes of a run or an evaluation.

    Args:
        name_or_file: a published split, or a JSON or YAML file ``{seen: [...], unseen: [...]}``.
        unseen: or the names of the unseen classes; all other known ones are seen.
        known: the classes of the dataset.

    Returns:
        Of a named split, the unseen classes stay even where the dataset has no boxes of them.

    Raises:
        ConfigError: neither or both are given, the name or file is unknown, a class is on both sides, one of
            ``unseen`` is not in the dataset, one of a file's is nearly one that the file does not name, or nothing is
            left to see or not to see.
    """
    there = canonical_classes(known)
    if (name_or_file is None) == (unseen is None):
        raise ConfigError(
            "say which classes are unseen, either with --unseen a,b or with --class-split NAME "
            f"(there are: {', '.join(published_splits())}, or a file)"
        )
    if unseen is not None:
        hidden = canonical_classes(unseen)
        wrong = [name for name in hidden if name not in there]
        if wrong or not hidden:
            raise ConfigError(
                f"--unseen {', '.join(wrong)}: not a class of the dataset (there are: {', '.join(there) or 'none'})"
            )
        seen = tuple(name for name in there if name not in hidden)
        if not seen:
            raise ConfigError(f"--unseen {', '.join(hidden)}: no class of the dataset is left to be seen")
        return ClassSplit("own", seen, hidden)
    assert name_or_file is not None
    name, sides = _read(name_or_file)
    first, hidden = (canonical_classes(sides[side]) for side in ("seen", "unseen"))
    both = [each for each in first if each in hidden]
    if both:
        raise ConfigError(f"--class-split {name}: {', '.join(both)} on both sides; a class is seen or unseen")
    if name_or_file not in published_splits():
        _check_slips(name, (*first, *hidden), there)
    seen = tuple(each for each in first if each in there)
    if not seen or not hidden:
        raise ConfigError(
            f"--class-split {name}: none of its seen classes ({_some(first)}) is in the dataset, which has: "
            f"{_some(there)}"
            if hidden
            else f"--class-split {name}: it names no unseen class"
        )
    return ClassSplit(name, seen, hidden)


def _check_slips(name: str, named: Sequence[str], there: Sequence[str]) -> None:
    """Refuse a file that names what is nearly a class of the dataset, where it names that class nowhere.

    Its objects would be on neither side, and so background. Other classes that the dataset has not may be meant.
    """
    free = [each for each in there if each not in named]
    slips = [
        f"{each} (did you mean {near[0]}?)"
        for each in named
        if each not in there and (near := difflib.get_close_matches(each, free, 1, _SLIP))
    ]
    if slips:
        raise ConfigError(f"--class-split {name}: not in the dataset: {', '.join(slips)}")


def check_spelling(names: Sequence[str], known: Iterable[str]) -> None:
    """Refuse names of new classes that are nearly those of known ones: CLIP finds something for any word.

    Args:
        names: any words; those that are like no known class are what open vocabularies are for.
        known: class names beside BDD100K's and the published splits'.

    Raises:
        ConfigError: naming the nearest classes.
    """
    published = [name for sides in published_splits().values() for side in sides.values() for name in side]
    there = sorted(canonical_classes([*known, *BDD100K_CLASSES, *published]))
    slips: list[str] = []
    for name in canonical_classes(names):
        # More words are another thing: a "red traffic light".
        near = [each for each in difflib.get_close_matches(name, there, 3, _SLIP) if f" {each} " not in f" {name} "]
        if near and name not in there:
            slips.append(f"{name} (did you mean {', '.join(near)}?)")
    if slips:
        raise ConfigError(
            f"--unseen: no class is known by the name {'; '.join(slips)}; names that are meant so can stand in a file "
            "{seen: [...], unseen: [...]} for --class-split"
        )


def _read(name: str) -> tuple[str, Mapping[str, Sequence[str]]]:
    splits = published_splits()
    if name in splits:
        return name, splits[name]
    if not Path(name).is_file():
        raise ConfigError(f"unknown --class-split '{name}' (there are: {', '.join(splits)}, or a JSON or YAML file)")
    found: dict[str, Any] = load_yaml(name)  # YAML takes JSON, too
    if set(found) != {"seen", "unseen"} or not all(_is_names(value) for value in found.values()):
        raise ConfigError(f"{name}: expected two lists of class names, 'seen' and 'unseen', and nothing else")
    return Path(name).stem, found


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
