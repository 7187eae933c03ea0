"""Arms that learn from what another arm finds: self-training inside a comparison (docs/adapt.md, "Self-training").

``ARM+self`` trains on the images of ``ARM``, and for the other half of every batch on the dataset's night images with
the labels that the finished ``ARM`` of the same seed gives them. A part ``pseudo:ARM`` of an arms file is the same in
any mixture. The labels of those night images are never read; dev chooses from which scores on a class is sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nightaug.data.formats import open_dataset
from nightaug.errors import ConfigError, DatasetError
from nightaug.experiment.compare_manifest import facts_in
from nightaug.experiment.compare_settings import PSEUDO, TEACHERS, SourceSpec

if TYPE_CHECKING:
    from nightaug.experiment.compare_data import Arm, ArmSource


def teachers(parts: Sequence[SourceSpec]) -> list[str]:
    """The arms that must be finished before one with these parts can be trained."""
    return [part.data.partition(":")[2] for part in parts if part.pseudo]


def with_pseudo(parts: Sequence[SourceSpec], teacher: str) -> tuple[SourceSpec, ...]:
    """The parts, and as much again that the teacher has labelled."""
    return (*parts, SourceSpec(data=f"{PSEUDO}:{teacher}", domain="B", weight=sum(part.weight for part in parts)))


# -- labels ----------------------------------------------------------------------------------------------------


def label_folder(out: Path, slug: str, seed: int) -> Path:
    """Where the labels that an arm gives lie."""
    return out / PSEUDO / slug / f"seed{seed}"


#: Seeds of the teachers of one row are this far apart: further than anyone counts the seeds of a comparison.
_APART = 1000


class Teacher(NamedTuple):
    """One training of an arm apart from its row, to label images."""

    folder: Path
    seed: int


def teachers_of(out: Path, slug: str, seed: int, number: int) -> list[Teacher]:
    """The trainings of an arm that label images together: the row's own seed first, then others.

    Their folders are ``seed0``, ``seed0-2``, ``seed0-3`` and so on.
    """
    folder = out / TEACHERS / slug
    names = [f"seed{seed}" + (f"-{which}" if which > 1 else "") for which in range(1, number + 1)]
    return [Teacher(folder / name, seed + _APART * which) for which, name in enumerate(names)]


def facts_of(folder: Path) -> Mapping[str, object]:
    """What is known of a folder of pseudo labels; nothing where there is none."""
    return facts_in(folder / "pseudo_labels.json")


def check_teacher(folder: Path, shas: Sequence[str | None]) -> bool:
    """Whether the labels in ``folder`` are all there.

    Args:
        shas: of the weights of each teacher, None where they are gone.

    Raises:
        ConfigError: they are those of other weights.
    """
    facts = facts_of(folder)
    if facts.get("finished") is not True:
        return False
    known = facts.get("weights_sha256")
    then = known if isinstance(known, list) else [known]
    if len(then) != len(shas) or any(sha not in (None, one) for one, sha in zip(then, shas, strict=True)):
        raise ConfigError(
            f"{folder} holds the labels of another detector than the one there is now; remove it, and the rows trained "
            "on it, to make both anew"
        )
    return True


def labels_of(teacher: Arm, folder: Path, how: str | None = None) -> ArmSource:
    """A teacher's labels as a part; they count as night labels where the teacher has learned from such.

    Args:
        how: the teacher was trained, where that is another way than its row's.

    Raises:
        DatasetError: they cannot be read.
    """
    from nightaug.experiment.compare_data import ArmSource

    spec = SourceSpec(data=f"{PSEUDO}:{teacher.key}", domain="B")
    frames = [frame for frame in open_dataset(folder).frames("all") if frame.path is not None]
    if not frames:
        raise DatasetError(f"{folder} holds no labelled image; remove it to have it made anew")
    by = f"{teacher.key}, {how}," if how else teacher.key
    return ArmSource(spec, f"night images that {by} has labelled", frames, 1.0, night_boxes=teacher.night_boxes)
