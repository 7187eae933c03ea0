"""The settings of a comparison, and what a comparison that was begun may still change."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import Field, PositiveInt

from nightaug.config import Settings, build, dump_yaml, flatten, lasting, load_yaml, merge
from nightaug.errors import ConfigError
from nightaug.experiment.compare_adapt import BY_ARM, Overrides, arm_settings, differences, overrides, without
from nightaug.images import atomic_write_text

#: The arm all others are measured against.
DAY = "day"
#: Real night with its labels: what translated images could at most be worth.
CEILINGS = ("day+night", "night")

#: What a part's data starts with where an arm of the comparison has labelled it, see compare_self.py.
PSEUDO = "pseudo"
#: Folder of the arms that were trained for longer to label images.
TEACHERS = "teachers"

#: Detector settings that change neither what is trained nor how it is tested.
HARMLESS = ("workers", "save_every", "log_every", "tensorboard", "adaptation.cache")
#: Detector settings that may name a file or a run, beside CLIP's.
FILES = ("detector", "weights", "pretrained")
#: What must be equal from the first run of a comparison to the last: the budget, and how dev is cut.
_FIXED = ("steps", "day_steps", "dev_share")


class SourceSpec(Settings):
    """One part of an arm's training images, as an arms file names it."""

    #: "dataset" (or "."): the compared dataset; "translated:NAME"; "pseudo:ARM": its night images with the labels that
    #: arm gives them; or the path of any dataset or translated folder.
    data: str = Field(min_length=1)
    #: train, val, test or all; the compared dataset and its translations only give train.
    split: Literal["train", "val", "test", "all"] = "train"
    #: A day, B night; null takes both. Of "translated:NAME", B is day rendered night, A night rendered day.
    domain: Literal["A", "B"] | None = None
    #: Share of the drawn images, relative to the arm's other parts.
    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    #: Whether labels of night images went into it; null finds out.
    night_boxes: bool | None = None

    @property
    def translated(self) -> bool:
        """Whether its images are a translation of the compared dataset."""
        return self.data.startswith("translated:")

    @property
    def pseudo(self) -> bool:
        """Whether another arm labels its images."""
        return self.data.startswith(f"{PSEUDO}:")


class TranslatorRecord(Settings):
    """A translator of a comparison: what translates, or the folders it has filled already."""

    #: relight, a run or a weight file.
    model: str | None = None
    day2night: str | None = None
    night2day: str | None = None


#: Detector settings that say which labels are trained on. Nothing here would heed them.
CHOOSING = ("rename", "classes", "exclude", "data", "validation")


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
    #: Steps of an arm where it labels images for others; null: its own row labels.
    teacher_steps: PositiveInt | None = None
    #: How often an arm is trained to label images for others; what all of them find is fused.
    teachers: PositiveInt = 1
    #: Share of the labels given for others that is right on dev, class by class.
    teacher_precision: float = Field(0.6, gt=0, lt=1)
    #: Detector settings of an arm where it labels images for others, laid over its own.
    teacher: Overrides = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: dict[str, tuple[SourceSpec, ...]]
    #: Detector settings of an arms file's arms.
    own: dict[str, Overrides] = Field(default_factory=dict)
    #: Arms with a part of the night head left out, ARM-without-PART; trained with the first seed where nothing is said.
    ablated: tuple[str, ...] = ()
    translators: dict[str, TranslatorRecord] = Field(default_factory=dict)
    #: What was typed, the first time and whenever it was something else.
    commands: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All arms, those with a part left out last."""
        return (*self.arms, *self.ablated)

    def parts(self, arm: str) -> tuple[SourceSpec, ...]:
        """What an arm's labelled images come from."""
        return self.arms[without(arm)[0]]

    def overrides(self, arm: str) -> Overrides:
        """What an arm sets of its own, see :func:`nightaug.experiment.compare_adapt.overrides`."""
        return overrides(arm, self.own, self.detector.get("adaptation", {}).get("parts", ()))

    def detector_of(self, arm: str) -> dict[str, Any]:
        """The detector settings of an arm, but for steps and seed."""
        translated = any(part.translated for part in self.parts(arm))
        return arm_settings(self.detector, self.overrides(arm), translated)

    @property
    def teaches_apart(self) -> bool:
        """Whether arms that label images are trained apart from their rows, with a budget or settings of their own."""
        return bool(self.teacher_steps or self.teacher or self.teachers > 1)

    @property
    def teaching(self) -> str | None:
        """How arms that label images are trained, in words; None: as their rows."""
        own = ", ".join(f"{key}={msgspec.json.encode(value).decode()}" for key, value in self.teacher_shown.items())
        times = f"{self.teachers} times " if self.teachers > 1 else ""
        words = f"trained {times}for {self.teacher_steps or self.steps:,} steps" + (f" with {own}" if own else "")
        return words if self.teaches_apart else None

    @property
    def teacher_shown(self) -> dict[str, Any]:
        """The teachers' own settings by their dotted names, as a table says them."""
        return {key: shown_file(value) if key in FILES else value for key, value in flatten(self.teacher).items()}

    @property
    def teaches_anew(self) -> bool:
        """Whether teachers do not start where the arms do: weights of one architecture do not fit another."""
        return any(key in self.teacher for key in ("detector", "pretrained"))

    def teacher_of(self, arm: str) -> dict[str, Any]:
        """The detector settings of an arm that labels images, but for steps and seed."""
        own = {"weights": None, "pretrained": None} if self.teaches_anew else {}
        return merge({**self.detector_of(arm), **own}, self.teacher)


def read_settings(path: Path) -> CompareSettings | None:
    """What ``compare.yaml`` holds, None where nothing was begun."""
    return build(CompareSettings, load_yaml(path)) if path.exists() else None


def lasting_places(detector: Mapping[str, Any]) -> dict[str, Any]:
    """Detector settings whose files are named by places that hold in other working folders, too."""
    from nightaug.detect.openvocab.vocabulary import lasting_clip

    found = dict(detector)
    for key in FILES:
        # Names and tags, such as yolo11n and auto, are no files: those are known by their endings.
        if (text := found.get(key)) and (key == "weights" or Path(text).suffix):
            found[key] = lasting(text)
    return found | ({"clip": lasting_clip(found["clip"])} if found.get("clip", "none") != "none" else {})


def shown_file(place: str | None) -> str | None:
    """A file by its name alone: a published table names no one's folders."""
    return Path(place).name if place and Path(place).is_absolute() else place


def other_steps(steps: int | None, budget: int) -> int | None:
    """None where a teacher has a row's own budget: that row is the teacher."""
    return None if steps == budget else steps


def starts_trained(settings: Settings) -> bool:
    """Whether the arms start from weights somebody trained; a day checkpoint is not needed then."""
    given = [getattr(settings, key, None) for key in ("weights", "pretrained")]
    return any(given) or str(getattr(settings, "detector", "")).endswith(".pt")


def check_teacher_settings(teacher: Mapping[str, Any]) -> None:
    """Refuse what a teacher cannot have of its own.

    Raises:
        ConfigError: naming it.
    """
    named = [key for key in (*CHOOSING, "adapt", "patience", "seed", "target", "weights") if key in teacher]
    if named:
        raise ConfigError(
            f"--teacher-set {', '.join(named)}: a teacher has its arm's images and classes and the comparison's start"
        )
    if "steps" in teacher:
        raise ConfigError("--teacher-set steps: a teacher's steps are said with --teacher-steps")


def check_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse detector settings that choose among a dataset's labels: arms and test images would not agree on them.

    Raises:
        ConfigError: naming them.
    """
    named = [key for key in CHOOSING if any(layer.get(key) for layer in layers)]
    if named:
        raise ConfigError(
            f"{', '.join(named)} cannot be set in a comparison, whose arms and test images have all the classes of the "
            "dataset: change its labels, or choose what an arm is trained on with --arms-file"
        )


def check_out(out: Path, dataset: Path) -> None:
    """Refuse a folder that holds something else, or is the dataset.

    Raises:
        ConfigError: saying which.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; choose another")
    here, there = out.resolve(), dataset.resolve()
    if here == there or there in here.parents:
        raise ConfigError(f"--out {out} lies in the dataset; choose a folder outside")
    begun = (out / "compare.yaml").exists()
    if out.is_dir() and not begun and any(entry.name != ".lock" for entry in out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no comparison; choose another --out")


def joined(before: CompareSettings, now: CompareSettings, folder: Path, begun: Collection[str]) -> CompareSettings:
    """``now`` with the arms, translators and seeds that the comparison has already.

    Arms, translators and seeds may be added and the way of counting may change; paths may, as what lies there is
    checked by its content. The detector, the budget and the meaning of an arm that was begun may not; of adaptation and
    CLIP that holds for what a begun arm uses of them.

    Args:
        begun: the arms whose training has started, and something else where that of a day checkpoint has.

    Raises:
        ConfigError: such a thing has changed; the message lists all of them.
    """
    arms = {**before.arms, **now.arms}
    now = now.model_copy(
        update={
            "arms": {DAY: arms[DAY], **arms},
            "own": {name: changes for name, changes in {**before.own, **now.own}.items() if changes},
            "ablated": tuple(dict.fromkeys((*before.ablated, *now.ablated))),
            "translators": {**before.translators, **now.translators},
            "seeds": tuple(sorted({*before.seeds, *now.seeds})),
            "commands": tuple(dict.fromkeys((*before.commands, *now.commands))),
        }
    )
    if not begun and not taught(folder) and not (folder / "translated").exists():
        return now  # there is nothing yet that it would be compared with
    changed = [
        f"{key} was {getattr(before, key)!r}, is {getattr(now, key)!r}"
        for key in _FIXED
        if getattr(before, key) != getattr(now, key)
    ]
    if taught(folder):
        for key in ("teacher_steps", "teachers", "teacher_precision"):
            if getattr(before, key) != getattr(now, key):
                changed.append(f"{key} was {getattr(before, key)!r}, is {getattr(now, key)!r}")
        own = differences(before.teacher, now.teacher, HARMLESS)
        changed += [f"teacher setting {key} {text}" for key, text in own.items()]
    ours, theirs = ({key: value for key, value in some.detector.items() if key not in BY_ARM} for some in (before, now))
    common = differences(ours, theirs, HARMLESS)
    changed += [f"detector setting {key} {text}" for key, text in common.items()]
    for name in before.names:
        if name not in begun:
            continue
        if [_meaning(part) for part in before.parts(name)] != [_meaning(part) for part in now.parts(name)]:
            changed.append(f"arm '{name}' has other parts")
        own = differences(before.detector_of(name), now.detector_of(name), HARMLESS)
        changed += [f"arm '{name}': {key} {text}" for key, text in own.items() if key not in common]
    changed += [
        f"translator '{name}' was {_what(before.translators[name])}, is {_what(record)}"
        for name, record in now.translators.items()
        if name in before.translators and _what(before.translators[name]) != _what(record)
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds a comparison with other settings: {'; '.join(changed)}; choose another --out"
        )
    return now


def taught(folder: Path) -> bool:
    """Whether a comparison has teachers that have begun, or labels: how they are trained is then fixed."""
    # Of labels that came to nothing there is only what was found.
    kept = (f"{TEACHERS}/*/*/state", f"{TEACHERS}/*/*/*.safetensors", f"{PSEUDO}/*/*/annotations/*.json")
    return any(any(folder.glob(pattern)) for pattern in kept)


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
