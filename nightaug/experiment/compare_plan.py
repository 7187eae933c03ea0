"""What a comparison is going to do, in words: its arms, how much of it is done, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from nightaug.config import Settings
from nightaug.experiment.arms import CHECKPOINT, shares, slug
from nightaug.experiment.compare_adapt import adapts_with
from nightaug.experiment.compare_data import Data
from nightaug.experiment.compare_rows import is_done, read_state
from nightaug.experiment.compare_self import facts_of, label_folder, teachers, teachers_of
from nightaug.experiment.compare_settings import CompareSettings, SourceSpec
from nightaug.experiment.compare_table import row_folder
from nightaug.training import duration


def checkpoint_folder(out: Path, seed: int) -> Path:
    """The run folder of a seed's day checkpoint."""
    return out / "checkpoints" / f"seed{seed}"


def is_trained(folder: Path) -> bool:
    """Whether a row's training has reached its last step."""
    state = read_state(folder)
    return state is not None and state.trained


def plan_lines(
    out: Path,
    settings: CompareSettings,
    data: Data,
    base: Settings,
    wanted: Sequence[tuple[str, int]],
    images: tuple[int, int],
) -> Iterator[str]:
    """What will be trained on what, what of it is done, and how long the rest takes if it goes on like that.

    Args:
        base: settings of the detector.
        wanted: (arm, seed) of the rows to train.
        images: of dev and of the test.
    """
    yield (
        f"{data.root}: {len(data.train['A']):,} day and {len(data.train['B']):,} night images to train on, "
        f"{images[0]:,} for choices, {images[1]:,} night images to test on"
    )
    for note in data.notes:
        yield f"  {note}"
    for name, parts in settings.arms.items():
        said = [
            f"{share:.0%} {_words(part)}{_number(part, data)}" for part, share in zip(parts, shares(parts), strict=True)
        ]
        yield f"  {name}: {', '.join(said)}{_beside(name, settings, data)}"
    for name in settings.ablated:
        yield f"  {name}"
    batch = getattr(base, "batch", 1) * getattr(base, "accumulate", 1)
    arms = [row_folder(out, slug(arm), seed) for arm, seed in wanted if arm != CHECKPOINT]
    done = [folder for folder in arms if is_done(folder)]
    yield (
        f"{len(arms)} runs of {settings.steps:,} steps with {batch} images each ({len(done)} done), "
        f"{len(arms) * settings.steps * batch:,} images in all"
    )
    starts: list[Path] = []
    if settings.day_steps:
        starts = [checkpoint_folder(out, seed) for seed in sorted({seed for _, seed in wanted})]
        number = sum(map(is_trained, starts))
        yield f"day checkpoints of {settings.day_steps:,} steps to start from: {len(starts)} ({number} done)"
    apart = _teachers(out, settings, wanted) if settings.teaches_apart else []
    if apart:
        yield f"teachers, {settings.teaching}: {len(apart)} ({sum(map(is_trained, apart))} done)"
    elif settings.teaches_apart and not any(map(teachers, settings.arms.values())):
        yield "no arm learns from what another labels (+self): how teachers are trained changes nothing"
    budget = settings.teacher_steps or settings.steps
    lengths = ((arms, settings.steps), (starts, settings.day_steps or 0), (apart, budget))
    yield from _time_left(out, lengths)


def _teachers(out: Path, settings: CompareSettings, wanted: Sequence[tuple[str, int]]) -> list[Path]:
    """The run folders of the arms that are trained apart to label images for the wanted rows."""
    found: dict[Path, None] = {}
    pending = [row for row in wanted if row[0] != CHECKPOINT and not is_done(row_folder(out, slug(row[0]), row[1]))]
    while pending:
        arm, seed = pending.pop()
        for teacher in teachers(settings.parts(arm)):
            if not facts_of(label_folder(out, slug(teacher), seed)).get("finished"):
                apart = teachers_of(out, slug(teacher), seed, settings.teachers)
                found |= dict.fromkeys(one.folder for one in apart)
                pending.append((teacher, seed))
    return list(found)


def _time_left(out: Path, lengths: Sequence[tuple[Sequence[Path], int]]) -> Iterator[str]:
    """By what a step has taken in the rows that are done, of whatever arm; nothing where none is.

    Args:
        lengths: run folders, and the steps each is to make.
    """
    known = [read_state(path.parent) for path in out.glob("runs/*/seed*/row.json")]
    done = [state for state in known if state is not None and state.trained and state.step and state.tested is not None]
    if not done:
        return
    each = sum(state.wall_s for state in done) / sum(state.step for state in done)
    steps = 0
    for folders, length in lengths:
        for folder in folders:
            state = read_state(folder)
            if state is None or not state.trained:
                steps += length - (0 if state is None else state.step)
    if steps:
        took = "run" if len(done) == 1 else f"{len(done)} runs"
        yield f"about {duration(each * steps)} of training to go, by what the finished {took} took"


def _words(part: SourceSpec) -> str:
    name = part.data if part.pseudo else Path(part.data).name
    return " ".join(filter(None, (name, part.split, part.domain)))


def _number(part: SourceSpec, data: Data) -> str:
    """How many images a part has, as far as that is known before anything is made."""
    if part.data == "dataset":
        number = sum(len(frames) for own, frames in data.train.items() if part.domain in (own, None))
        return f" ({number:,} images)"
    if part.translated:
        # What was day is now night.
        return f" (up to {len(data.train['A' if part.domain == 'B' else 'B']):,} images)"
    return f" (of {len(data.target):,} images)" if part.pseudo else ""


def _beside(name: str, settings: CompareSettings, data: Data) -> str:
    """What an arm sees beside labelled images, and what it sets of its own."""
    own = settings.own.get(name)
    said = f"; set {msgspec.json.encode(own).decode()}" if own else ""
    if adapts_with(settings.overrides(name)):
        said += f"; with {len(data.train['B']):,} unlabelled night images, as many a step beside"
    return said
