"""The arms of a comparison: the built-in ones, those of an arms file, and what each trains on.

An arm is a list of parts; training draws from them by weight, half and half where nothing else is said. The names:

- ``day``: labelled day images. What every other arm is measured against.
- ``day+night``, ``night``: with real night images and their labels: the two ceilings.
- ``day+translated:NAME``: day images, and day images rendered night by a translator, with their day labels.
- ``translated:NAME``: the rendered ones alone.
- ``seed-translated:NAME``: day rendered night and night rendered day; uses night labels, and is named so.

Without ``:NAME`` an arm stands for one arm of each translator.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug.config import build, load_yaml
from nightaug.errors import ConfigError
from nightaug.experiment.compare_settings import CEILINGS, DAY, SourceSpec

#: The compared dataset, as parts name it.
DATASET = "dataset"
#: What a part's data starts with where it is a translation of the compared dataset.
TRANSLATED = "translated"
NIGHT_MARK = " [night boxes]"
#: The detector every arm is fine-tuned from, as ``only`` names it.
CHECKPOINT = "checkpoint"

#: Bytes of an arm's name: it becomes a folder's.
_LONGEST = 120
#: Least share of a part.
_LEAST = 0.001

Parts = tuple[SourceSpec, ...]

_DAY_PART = SourceSpec(data=DATASET, domain="A")
_NIGHT_PART = SourceSpec(data=DATASET, domain="B")
#: Arms that need no translator.
FIXED: dict[str, Parts] = {DAY: (_DAY_PART,), "night": (_NIGHT_PART,), "day+night": (_DAY_PART, _NIGHT_PART)}
#: Arms of one translator each; their parts are made by :func:`_of_translator`.
PER_TRANSLATOR = ("day+translated", "translated", "seed-translated")


def _of_translator(kind: str, name: str) -> Parts:
    rendered_night = SourceSpec(data=f"{TRANSLATED}:{name}", domain="B")
    rendered_day = SourceSpec(data=f"{TRANSLATED}:{name}", domain="A")
    return {
        "day+translated": (_DAY_PART, rendered_night),
        "translated": (rendered_night,),
        "seed-translated": (rendered_night, rendered_day),
    }[kind]


def read_arms(path: Path) -> dict[str, Parts]:
    """User-made arms: YAML, ``name: [{data, split, domain, weight}, ...]``; relative paths count from the file.

    Raises:
        ConfigError: every mistake in the file, in one message.
    """
    found: dict[str, Parts] = {}
    mistakes: list[str] = []
    for key, value in load_yaml(path).items():
        name = str(key)
        if is_built_in(name):
            mistakes.append(f"arm '{name}': the name is a built-in arm's")
        elif name == CHECKPOINT:
            mistakes.append(f"arm '{name}': the name stands for the detector every arm starts from")
        elif not re.fullmatch(r"[\w+][\w+.:\- ]*", name) or not re.search(r"\w", name) or name != name.strip():
            mistakes.append(f"arm '{name}': a name has letters, digits and + - . : _ only, and begins with a letter")
        elif len(name.encode()) > _LONGEST:
            mistakes.append(f"arm '{name[:20]}...': its name is longer than {_LONGEST} bytes")
        elif not isinstance(value, list) or not value:
            mistakes.append(f"arm '{name}': expected a list of parts such as {{data: dataset, domain: A}}")
        else:
            parts = [_part(name, number, item, path.parent, mistakes) for number, item in enumerate(value, 1)]
            found[name] = tuple(part for part in parts if part is not None)
            if found[name] and min(shares(found[name])) < _LEAST:
                mistakes.append(f"arm '{name}': a part with less than {_LEAST:.1%} of the weight would hardly be drawn")
    if mistakes:
        raise ConfigError(f"{path}: {'; '.join(mistakes)}")
    return found


def _part(arm: str, number: int, item: Any, folder: Path, mistakes: list[str]) -> SourceSpec | None:
    where = f"arm '{arm}', part {number}"
    if not isinstance(item, dict):
        mistakes.append(f"{where}: expected {{data: ..., split: ..., domain: ..., weight: ...}}, got {item!r}")
        return None
    try:
        spec = build(SourceSpec, {str(key): value for key, value in item.items()})
    except ConfigError as error:
        mistakes.append(f"{where}: {error}")
        return None
    kind, _, name = spec.data.partition(":")
    if spec.split != "train" and (spec.data in (DATASET, ".") or kind == TRANSLATED):
        mistakes.append(f"{where}: arms train on the train split only, {spec.split} is kept for choices and tests")
        return None
    if spec.data in (DATASET, ".") or kind == TRANSLATED:
        known = {"domain": spec.domain or "B"} if kind == TRANSLATED else {"data": DATASET}
        return spec.model_copy(update=known)
    if (folder / spec.data).exists():
        return spec.model_copy(update={"data": str((folder / spec.data).absolute())})
    close = difflib.get_close_matches(kind, [DATASET, TRANSLATED], 1)
    hint = f"; did you mean '{':'.join(filter(None, [close[0], name]))}'?" if close else ""
    mistakes.append(f"{where}: unknown data '{spec.data}', neither 'dataset', 'translated:NAME' nor a folder{hint}")
    return None


def default_arms(translators: Iterable[str], own: Iterable[str]) -> list[str]:
    """What is compared where nothing is said: day, both ceilings, day and translated images, and one's own arms."""
    return [DAY, *reversed(CEILINGS), *(["day+translated"] if list(translators) else []), *own]


def expand(names: Sequence[str], own: Mapping[str, Parts], translators: Sequence[str]) -> dict[str, Parts]:
    """The arms that a list of names asks for, ``day`` first (nothing can be measured without it).

    Raises:
        ConfigError: an unknown arm or translator, or an arm that needs a translator where there is none.
    """
    arms: dict[str, Parts] = {DAY: FIXED[DAY]}
    for name in names:
        kind, colon, wanted = name.partition(":")
        if name in FIXED:
            arms[name] = FIXED[name]
        elif name in own:
            arms[name] = tuple(_named(name, part, translators) for part in own[name])
        elif kind in PER_TRANSLATOR:
            if not translators:
                raise ConfigError(f"arm '{name}' needs a translator: add --translator relight, a run or a folder")
            for one in [wanted] if colon else translators:
                _check_translator(f"arm '{name}'", one, translators)
                arms[f"{kind}:{one}"] = _of_translator(kind, one)
        else:
            known = [*FIXED, *PER_TRANSLATOR, *own]
            raise ConfigError(f"unknown arm '{name}'{_hint(name, known)} (there are: {', '.join(known)})")
    check_folders(arms)
    return arms


def check_folders(arms: Iterable[str]) -> None:
    """Refuse two arms of one folder.

    Raises:
        ConfigError: naming them.
    """
    slugs: dict[str, str] = {}
    for name in arms:
        # Some file systems know no capitals.
        other = slugs.setdefault(slug(name).casefold(), name)
        if other != name:
            raise ConfigError(f"arms '{other}' and '{name}' would share a folder; rename one")


def _named(arm: str, part: SourceSpec, translators: Sequence[str]) -> SourceSpec:
    """A part whose translator is known by name; ``translated`` alone means the only one there is."""
    kind, _, name = part.data.partition(":")
    if kind != TRANSLATED or part.data == DATASET:
        return part
    if not name:
        if len(translators) != 1:
            given = ", ".join(translators) or "none"
            raise ConfigError(f"arm '{arm}': say which translator, as in data: translated:NAME (given: {given})")
        name = translators[0]
    _check_translator(f"arm '{arm}'", name, translators)
    return part.model_copy(update={"data": f"{TRANSLATED}:{name}"})


def _check_translator(where: str, name: str, translators: Sequence[str]) -> None:
    if name not in translators:
        given = ", ".join(translators) or "none"
        raise ConfigError(f"{where}: unknown translator '{name}'{_hint(name, translators)} (given: {given})")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def is_built_in(name: str) -> bool:
    """Whether an arm's name is one of nightaug's own."""
    return name in FIXED or name.partition(":")[0] in PER_TRANSLATOR


def is_folder(part: SourceSpec) -> bool:
    """Whether a part's images come from elsewhere than the compared dataset and its translations."""
    return part.data != DATASET and not part.data.startswith(f"{TRANSLATED}:")


def slug(name: str) -> str:
    """An arm's name as a folder name."""
    return re.sub(r"[^\w+.-]+", "-", name)


def shown_name(name: str, night_boxes: bool) -> str:
    """The arm's name in tables: one that used night labels says so, but for the ceilings, whose names do already."""
    return name + NIGHT_MARK if night_boxes and name not in CEILINGS else name


def shares(parts: Sequence[SourceSpec]) -> list[float]:
    """The share of the drawn images that comes from each part; they sum to 1."""
    total = sum(part.weight for part in parts)
    return [part.weight / total for part in parts]


def wanted_rows(only: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """The (arm, seed) pairs to train now: all, or those that ``only`` names: ``ARM``, ``ARM@SEED`` or ``@SEED``.

    The order is seed by seed, so that a comparison stopped early has whole seeds. ``checkpoint`` stands for the day
    checkpoint alone; it comes first.

    Raises:
        ConfigError: ``only`` names an arm or a seed that is not in this comparison.
    """
    every = [(arm, seed) for seed in seeds for arm in (CHECKPOINT, *arms)]
    if not only:
        return [row for row in every if row[0] != CHECKPOINT]
    chosen: set[tuple[str, int]] = set()
    for item in only:
        arm, at, seed = item.partition("@")
        arm = arm.removesuffix(NIGHT_MARK)
        some = [row for row in every if arm in ("", row[0]) and (not at or str(row[1]) == seed)]
        if not some:
            raise ConfigError(
                f"--only {item}: no such arm and seed here{_hint(arm, arms)} (arms: {', '.join(arms)}; seeds: "
                f"{', '.join(map(str, seeds))}; write ARM, ARM@SEED or @SEED)"
            )
        chosen.update(some)
    return [row for row in every if row in chosen]
