"""The settings of a comparison, and what a comparison that was begun may still change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt

from nightaug.config import Settings, build, dump_yaml, load_yaml
from nightaug.errors import ConfigError
from nightaug.images import atomic_write_text

#: The arm all others are measured against.
DAY = "day"
#: Real night with its labels: what translated images could at most be worth.
CEILINGS = ("day+night", "night")

#: Detector settings that change neither what is trained nor how it is tested.
_HARMLESS = ("workers", "save_every", "log_every", "tensorboard")
#: What must be equal from the first run of a comparison to the last: the budget, and how dev is cut.
_FIXED = ("steps", "day_steps", "dev_share")


class SourceSpec(Settings):
    """One part of an arm's training images, as an arms file names it."""

    #: "dataset" (or "."): the compared dataset; "translated:NAME"; or the path of any dataset or translated folder.
    data: str = Field(min_length=1)
    #: train, val, test or all; the compared dataset and its translations only give train.
    split: Literal["train", "val", "test", "all"] = "train"
    #: A day, B night; null takes both. Of "translated:NAME", B is day rendered night, A night rendered day.
    domain: Literal["A", "B"] | None = None
    #: Share of the drawn images, relative to the arm's other parts.
    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    #: Whether labels of night images went into it; null finds out.
    night_boxes: bool | None = None


class TranslatorRecord(Settings):
    """A translator of a comparison: what translates, or the folders it has filled already."""

    #: relight, a run or a weight file.
    model: str | None = None
    day2night: str | None = None
    night2day: str | None = None


class CompareOptions(Settings):
    """How a comparison is cut, counted and judged."""

    #: Share of the train drives that are cut off for choices, where the dataset has no val split of its own drives.
    dev_share: float = Field(0.15, gt=0, lt=0.5)
    #: A class counts in the mean AP with at least this many test boxes.
    min_boxes: int = Field(80, ge=1)
    #: With fewer test images, or fewer seeds, the verdict says "demonstration".
    min_images: int = Field(1000, ge=0)
    min_seeds: int = Field(3, ge=0)
    #: Replicates of the bootstrap over test images and seeds, and its seed.
    bootstrap: int = Field(1000, ge=40)
    bootstrap_seed: int = Field(0, ge=0)
    #: Day images an arm of translated images shows on the page.
    pairs: int = Field(6, ge=0)


class CompareSettings(CompareOptions):
    """``compare.yaml``: everything that decides about the numbers of a comparison."""

    dataset: str
    #: Go on where drives of the test images are also in train.
    allow_shared_drives: bool = False
    #: Of the sample world, where the dataset does not lead to its world.json.
    world_version: int | str | None = None
    detector: dict[str, Any]
    steps: PositiveInt
    #: Steps of the day checkpoint every arm is fine-tuned from; null: the arms start from pretrained weights.
    day_steps: PositiveInt | None
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: dict[str, tuple[SourceSpec, ...]]
    translators: dict[str, TranslatorRecord] = Field(default_factory=dict)
    #: What was typed, the first time and whenever it was something else.
    commands: tuple[str, ...] = ()


def read_settings(path: Path) -> CompareSettings | None:
    """What ``compare.yaml`` holds, None where nothing was begun."""
    return build(CompareSettings, load_yaml(path)) if path.exists() else None


def joined(
    before: CompareSettings, now: CompareSettings, folder: Path, begun: Callable[[str], bool]
) -> CompareSettings:
    """``now`` with the arms, translators and seeds that the comparison has already.

    Arms, translators and seeds may be added and the way of counting may change; paths may, as what lies there is
    checked by its content. The detector, the budget and the meaning of an arm that was begun may not.

    Args:
        begun: whether training of an arm has started.

    Raises:
        ConfigError: such a thing has changed; the message lists all of them.
    """
    changed = [
        f"{key} was {getattr(before, key)!r}, is {getattr(now, key)!r}"
        for key in _FIXED
        if getattr(before, key) != getattr(now, key)
    ]
    # As YAML gives it back: tuples are lists there.
    detector = yaml.safe_load(dump_yaml(now))["detector"]
    changed += [
        f"detector setting {key} was {before.detector.get(key)!r}, is {detector.get(key)!r}"
        for key in sorted(set(before.detector) | set(detector))
        if key not in _HARMLESS and before.detector.get(key) != detector.get(key)
    ]
    changed += [
        f"arm '{name}' has other parts"
        for name, parts in now.arms.items()
        if name in before.arms
        and begun(name)
        and [_meaning(part) for part in before.arms[name]] != [_meaning(part) for part in parts]
    ]
    changed += [
        f"translator '{name}' was {_what(before.translators[name])}, is {_what(record)}"
        for name, record in now.translators.items()
        if name in before.translators and _what(before.translators[name]) != _what(record)
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds a comparison with other settings: {'; '.join(changed)}; choose another --out"
        )
    arms = {**before.arms, **now.arms}
    return now.model_copy(
        update={
            "arms": {DAY: arms[DAY], **arms},
            "translators": {**before.translators, **now.translators},
            "seeds": tuple(sorted({*before.seeds, *now.seeds})),
            "commands": tuple(dict.fromkeys((*before.commands, *now.commands))),
        }
    )


def _meaning(part: SourceSpec) -> SourceSpec:
    """A part without the folder its data lies in, which is another one on every machine."""
    return part.model_copy(update={"data": Path(part.data).name})


def _what(record: TranslatorRecord) -> str:
    """A translator without the folder it lies in."""
    places = {"model": record.model, "day2night": record.day2night, "night2day": record.night2day}
    return " and ".join(f"{kind} {Path(place).name}" for kind, place in places.items() if place) or "nothing"


def write_settings(settings: CompareSettings, path: Path) -> None:
    """Write ``compare.yaml``."""
    atomic_write_text(path, dump_yaml(settings))
