"""The translators of a comparison: how they are named, and the translated folders they stand for."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nightaug.data.classes import Direction
from nightaug.data.formats import TRANSLATION
from nightaug.errors import ConfigError, Interrupted, NightaugError
from nightaug.experiment.arms import TRANSLATED, Parts
from nightaug.experiment.compare_settings import TranslatorRecord
from nightaug.runs import file_sha256, progress_bar
from nightaug.translate.job import disk_needed
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.translators import RELIGHT, Translator, read_fitted, relights

#: Domain of the images a direction makes.
MADE: dict[Direction, str] = {"day2night": "B", "night2day": "A"}
#: Weight files that hold one generator, as the public ones do.
_ONE_WAY = {".pth", ".pt", ".ckpt"}
_DIRECTION: dict[str, Direction] = {"B": "day2night", "A": "night2day"}


@dataclass
class TranslatorSource:
    """A translator of a comparison.

    Attributes:
        model: ``relight``, a run or a weight file; None where all there is are translated folders.
        folders: direction -> translated folder somebody has made already.
    """

    name: str
    model: str | None = None
    folders: dict[Direction, Path] = field(default_factory=dict)

    def folder(self, direction: Direction, out: Path) -> Path:
        """Where its images lie, or will lie."""
        made = out / "translated" / (self.name if direction == "day2night" else f"{self.name}-{direction}")
        return self.folders.get(direction, made)

    def is_made(self, direction: Direction, out: Path) -> bool:
        """Whether there is nothing left to translate."""
        if direction in self.folders:
            return True
        try:
            facts = json.loads((self.folder(direction, out) / TRANSLATION).read_text("utf-8"))
            return facts["finished"] is True
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def check(self, direction: Direction, out: Path) -> None:
        """Refuse what cannot translate, before other arms are trained.

        Raises:
            ConfigError, CheckpointError: as :meth:`nightaug.translate.translators.Translator.load`.
        """
        if self.model is not None and not self.is_made(direction, out):
            Translator.load(self.model, direction, "cpu")

    def record(self) -> TranslatorRecord:
        """For ``compare.yaml``."""
        return TranslatorRecord(model=self.model, **{way: str(folder) for way, folder in self.folders.items()})

    @classmethod
    def recorded(cls, name: str, record: TranslatorRecord) -> TranslatorSource:
        """What :meth:`record` wrote."""
        ways: dict[Direction, str | None] = {"day2night": record.day2night, "night2day": record.night2day}
        return cls(name, record.model, {way: Path(folder) for way, folder in ways.items() if folder})


def parse_translators(given: Iterable[str]) -> dict[str, TranslatorSource]:
    """``relight``, a run, a weight file or a translated folder, each also as ``NAME=...``.

    A name given twice joins two folders of different directions.

    Raises:
        ConfigError: nothing usable there, or two translators of one name.
    """
    found: dict[str, TranslatorSource] = {}
    for text in given:
        name, source = _split_name(text)
        direction = _translated_folder(source)
        known = found.setdefault(name, TranslatorSource(name))
        double = known.model is not None or (direction is None and known.folders) or direction in known.folders
        if double:
            raise ConfigError(f"two translators are called '{name}'; name one as in --translator OTHER={source}")
        if direction is not None:
            known.folders[direction] = Path(source).absolute()
        else:
            known.model = source if source == RELIGHT else str(Path(source).absolute())
    return found


def all_translators(before: Mapping[str, TranslatorRecord], given: Sequence[str]) -> dict[str, TranslatorSource]:
    """Those that are given, and those that a comparison was begun with.

    Raises:
        ConfigError: as :func:`parse_translators`.
    """
    sources = parse_translators(given)
    for name, record in before.items():
        sources.setdefault(name, TranslatorSource.recorded(name, record))
    return sources


def _split_name(text: str) -> tuple[str, str]:
    """Name and source; the name is the folder's (or the file's) where none is given."""
    name, equals, source = text.partition("=")
    if not equals or Path(text).exists():
        path = Path(text)
        if text != RELIGHT and not path.exists():
            raise ConfigError(f"translator '{text}': expected relight, a run, a weight file or a translated folder")
        # runs/cyclegan/best.safetensors is the run cyclegan, generator.pth is generator.
        of_run = path.is_file() and path.stem in ("best", "last")
        name = text if text == RELIGHT else (path.absolute().parent.name if of_run else path.absolute().name)
        if path.is_file() and not of_run:
            name = path.stem
        return re.sub(r"[^\w+.-]+", "-", name), text
    if not re.fullmatch(r"[\w+.-]+", name) or not name.strip("."):
        raise ConfigError(f"translator '{text}': a name has letters, digits and + - . _ only")
    if source != RELIGHT and not Path(source).exists():
        raise ConfigError(f"translator '{name}': {source or 'nothing'} does not exist")
    return name, source


def _translated_folder(source: str) -> Direction | None:
    """The direction of a folder of translated images, None where ``source`` is something that translates.

    Raises:
        ConfigError: a folder that is neither, or a translation that was stopped or still runs.
    """
    path = Path(source)
    if source == RELIGHT or path.is_file():
        return None
    if (path / "prepare.json").exists():
        raise ConfigError(f"translator {source} is a prepared dataset, not a translation of one")
    try:
        facts = json.loads((path / TRANSLATION).read_text("utf-8"))
        direction, unfinished = facts["direction"], facts.get("finished") is False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        direction, unfinished = None, False
    if unfinished:
        # An arm of it would be trained on what happens to be there, and its labels come last.
        raise ConfigError(f"translator {source}: the translation is not finished; run nightaug translate again first")
    if direction is not None:
        return "night2day" if direction == "night2day" else "day2night"
    if any((path / f"{name}.safetensors").exists() for name in ("best", "last")) or (path / "config.yaml").exists():
        return None
    if (path / "train" / "B").is_dir():
        return "day2night"
    raise ConfigError(f"translator {source}: neither a train-translator run nor a translated folder (no train/B)")


def needed(arms: Mapping[str, Parts]) -> list[tuple[str, Direction]]:
    """The translations that arms train on: (translator, direction)."""
    wanted: dict[tuple[str, Direction], None] = {}
    for parts in arms.values():
        for part in parts:
            kind, _, name = part.data.partition(":")
            if kind == TRANSLATED:
                wanted[name, _DIRECTION[part.domain or "B"]] = None
    return list(wanted)


def check_directions(arms: Mapping[str, Parts], translators: Mapping[str, TranslatorSource]) -> None:
    """Refuse arms whose translator cannot go the way they need.

    Raises:
        ConfigError: naming the arm.
    """
    for arm, parts in arms.items():
        for name, direction in needed({arm: parts}):
            source = translators[name]
            if direction in source.folders:
                continue
            if source.model is None:
                raise ConfigError(
                    f"arm '{arm}': {name} has no {direction} images; add --translator {name}=FOLDER of them"
                )
            if direction == "night2day" and (relights(source.model) or Path(source.model).suffix in _ONE_WAY):
                raise ConfigError(f"arm '{arm}': {name} only goes from day to night; it needs a train-translator run")


def render(
    source: TranslatorSource, direction: Direction, data: Path, out: Path, cpu: bool, say: Callable[[str], None]
) -> Path:
    """Translate the train split of a prepared dataset, unless that is done.

    Returns:
        The translated folder.

    Raises:
        Interrupted: stopped by Ctrl-C.
        NightaugError: as :func:`nightaug.translate.job.run_job`.
    """
    folder = source.folder(direction, out)
    if source.is_made(direction, out):
        _check_same(source, direction, folder)
        return folder
    assert source.model is not None  # see check_directions
    # Only train is ever trained on; the other splits would cost their share of the time for nothing.
    plan = make_plan(data, direction, split="train")
    loaded = Translator.load(source.model, direction, "cpu" if cpu else None)
    out.mkdir(parents=True, exist_ok=True)
    need, free = disk_needed(plan), shutil.disk_usage(out).free
    if need > free:
        raise NightaugError(f"{folder}: about {need / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
    say(f"translating {len(plan.items):,} images {direction} by {source.name}")
    began = time.monotonic()
    with progress_bar(f"translating by {source.name}", len(plan.items)) as progress:
        result = translate(plan, loaded, folder, progress=progress)
    if result.interrupted:
        raise Interrupted(f"stopped while translating by {source.name}; run the same command again to go on")
    skipped = f", {len(result.failed):,} could not be read" if result.failed else ""
    say(f"  {result.written:,} translated in {time.monotonic() - began:.0f} s{skipped}")
    return folder


def _check_same(source: TranslatorSource, direction: Direction, folder: Path) -> None:
    """Refuse images that other weights have made, as far as the weights are still there to tell.

    Raises:
        ConfigError: the weights have changed.
    """
    if direction in source.folders or source.model is None or source.model == RELIGHT:
        return
    facts = json.loads((folder / TRANSLATION).read_text("utf-8"))
    known: object
    now: object
    try:
        if relights(source.model):
            known, now = (facts.get("settings") or {}).get("relight") or {}, read_fitted(source.model)[0]
        else:
            from nightaug.cyclegan.checkpoint import find_weights

            known, now = facts.get("checkpoint_sha"), file_sha256(find_weights(Path(source.model)))
    except (NightaugError, OSError):
        return
    if known != now:
        raise ConfigError(
            f"{source.model} holds other weights than those {folder} was made with; give it another name, as in "
            f"--translator NEW={source.model}"
        )


def folders(
    arms: Sequence[tuple[str, Direction]], translators: Mapping[str, TranslatorSource], out: Path
) -> dict[tuple[str, str], Path]:
    """(translator, domain of its images) -> folder."""
    return {(name, MADE[direction]): translators[name].folder(direction, out) for name, direction in arms}
