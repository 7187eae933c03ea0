"""The arms of a comparison: the built-in ones, those of an arms file, and what each trains on.

An arm is a list of parts; training draws from them by weight, half and half where nothing else is said. The names:

- ``day``: labelled day images. What every other arm is measured against.
- ``day+night``, ``night``: with real night images and their labels: the two ceilings.
- ``day+translated:NAME``: day images, and day images rendered night by a translator, with their day labels.
- ``translated:NAME``: the rendered ones alone.
- ``seed-translated:NAME``: day rendered night and night rendered day; uses night labels, and is named so.

Without ``:NAME`` an arm stands for one arm of each translator; ``:ONE+OTHER`` is one arm of both translators' images,
in equal parts. ``day+adapt``, ``day+translated+adapt:NAME``,
``translated+adapt:NAME`` and the like also learn from unlabelled night images, and ``-without-PART`` leaves a part of
that out (see :mod:`nightaug.experiment.compare_adapt`). ``day+translated+self:NAME`` also learns from the labels that
``day+translated:NAME`` gives unlabelled night images (see :mod:`nightaug.experiment.compare_self`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nightaug.config import build, load_yaml
from nightaug.errors import ConfigError
from nightaug.experiment.compare_adapt import (
    ADAPT,
    SELF,
    Overrides,
    ablated,
    adapted,
    adapts_with,
    idle_parts,
    labelled,
    overrides,
    parts_of,
    read_set,
    root,
    rounds,
    student,
    taught,
    without,
)
from nightaug.experiment.compare_self import teachers, with_pseudo
from nightaug.experiment.compare_settings import CEILINGS, DAY, PSEUDO, CompareSettings, SourceSpec

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
#: Arms of one translator each, or of several mixed; their parts are made by :func:`_of_translators`.
PER_TRANSLATOR = ("day+translated", "translated", "seed-translated")
#: Built-in arms that can learn from unlabelled night images: those without night labels.
_ADAPTABLE = (DAY, "day+translated", "translated")


class OwnArm(NamedTuple):
    """An arm of an arms file: what it draws from, and the detector settings it changes."""

    parts: Parts
    settings: Overrides


class Asked(NamedTuple):
    """The arms one call asks for, as in :class:`CompareSettings`; ``notes`` say what of it was left out."""

    arms: dict[str, Parts]
    own: dict[str, Overrides]
    ablated: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _of_translators(kind: str, names: Sequence[str]) -> Parts:
    rendered_night = [SourceSpec(data=f"{TRANSLATED}:{name}", domain="B") for name in names]
    rendered_day = [SourceSpec(data=f"{TRANSLATED}:{name}", domain="A") for name in names]
    return {
        "day+translated": (_DAY_PART, *rendered_night),
        "translated": (*rendered_night,),
        "seed-translated": (*rendered_night, *rendered_day),
    }[kind]


def read_arms(path: Path) -> dict[str, OwnArm]:
    """User-made arms: YAML, ``name: [{data, split, domain, weight}, ...]`` or ``name: {data: [...], set: {...}}``.

    Relative paths count from the file.

    Raises:
        ConfigError: every mistake in the file, in one message.
    """
    found: dict[str, OwnArm] = {}
    mistakes: list[str] = []
    for key, value in load_yaml(path).items():
        name = str(key)
        if without(name)[1] or labelled(name)[1]:
            mistakes.append(f"arm '{name}': {ADAPT} and -without-PART are nightaug's own endings; say it under set")
        elif taught(name)[1]:
            mistakes.append(f"arm '{name}': {SELF} is nightaug's own ending; give it a part such as data: {PSEUDO}:ARM")
        elif is_built_in(name):
            mistakes.append(f"arm '{name}': the name is a built-in arm's")
        elif name == CHECKPOINT:
            mistakes.append(f"arm '{name}': the name stands for the detector every arm starts from")
        elif not re.fullmatch(r"[\w+][\w+.:\- ]*", name) or not re.search(r"\w", name) or name != name.strip():
            mistakes.append(f"arm '{name}': a name has letters, digits and + - . : _ only, and begins with a letter")
        elif len(name.encode()) > _LONGEST:
            mistakes.append(f"arm '{name[:20]}...': its name is longer than {_LONGEST} bytes")
        else:
            found[name] = _own(name, value, path.parent, mistakes)
    if not found and not mistakes:
        mistakes.append("it names no arm; expected NAME: [{data: dataset, domain: A}, ...]")
    if mistakes:
        raise ConfigError(f"{path}: {'; '.join(mistakes)}")
    return found


def _own(name: str, value: Any, folder: Path, mistakes: list[str]) -> OwnArm:
    items, settings = value, {}
    if isinstance(value, dict):
        items, wrong = value.get("data"), [str(key) for key in value if key not in ("data", "set")]
        if wrong:
            mistakes.append(f"arm '{name}': expected data and set, got {', '.join(wrong)}")
        try:
            settings = read_set(value.get("set", {}))
        except ConfigError as error:
            mistakes.append(f"arm '{name}': {error}")
    if not isinstance(items, list) or not items:
        mistakes.append(f"arm '{name}': expected a list of parts such as {{data: dataset, domain: A}}")
        return OwnArm((), settings)
    read = [_part(name, number, item, folder, mistakes) for number, item in enumerate(items, 1)]
    parts = tuple(part for part in read if part is not None)
    if parts and min(shares(parts)) < _LEAST:
        mistakes.append(f"arm '{name}': a part with less than {_LEAST:.1%} of the weight would hardly be drawn")
    return OwnArm(parts, settings)


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
    if spec.data in (DATASET, ".") or kind == TRANSLATED or spec.pseudo:
        return _known_part(spec, where, mistakes)
    if (folder / spec.data).exists():
        return spec.model_copy(update={"data": str((folder / spec.data).absolute())})
    close = difflib.get_close_matches(kind, [DATASET, TRANSLATED, PSEUDO], 1)
    hint = f"; did you mean '{':'.join(filter(None, [close[0], name]))}'?" if close else ""
    mistakes.append(
        f"{where}: unknown data '{spec.data}', neither 'dataset', 'translated:NAME', '{PSEUDO}:ARM' nor a folder{hint}"
    )
    return None


def _known_part(spec: SourceSpec, where: str, mistakes: list[str]) -> SourceSpec | None:
    """A part of the compared dataset, or of what the comparison makes of it."""
    kind, _, name = spec.data.partition(":")
    if spec.split != "train":
        mistakes.append(f"{where}: arms train on the train split only, {spec.split} is kept for choices and tests")
    elif kind == PSEUDO and (not name or spec.domain == "A" or spec.night_boxes is not None):
        mistakes.append(f"{where}: expected {PSEUDO}:ARM and a weight; the arm labels the night images of train")
    elif kind in (PSEUDO, TRANSLATED):
        return spec.model_copy(update={"domain": spec.domain or "B"})
    else:
        return spec.model_copy(update={"data": DATASET})
    return None


def default_arms(translators: Iterable[str], own: Iterable[str]) -> list[str]:
    """What is compared where nothing is said: day, both ceilings, day and translated images, and one's own arms."""
    return [DAY, *reversed(CEILINGS), *(["day+translated"] if list(translators) else []), *own]


def asked(
    before: CompareSettings | None,
    names: Sequence[str] | None,
    file: Path | None,
    translators: Sequence[str],
    ablate: str | None,
    detector: Mapping[str, Any],
) -> Asked:
    """The arms a call asks for; those a comparison was begun with need not be named again.

    Args:
        names: None: where nothing was begun the usual ones, else what is new.
        ablate: an adapted arm; one arm is added for each of its parts that does anything, without that.
        detector: the detector settings of the comparison.

    Raises:
        ConfigError: as :func:`read_arms` and :func:`expand`, or nothing can be left out.
    """
    head = detector["adaptation"]["parts"]
    own = read_arms(file) if file is not None else {}
    if names is None and before is None:
        names = default_arms(translators, own)
    elif names is None:
        # Nothing is named, so what is new is meant: arms of the file, and a new translator's images beside the day.
        new = [name for name in translators if before is not None and name not in before.translators]
        names = [*own, *(f"day+translated:{name}" for name in new)]
    if before is not None:
        there = {name: OwnArm(parts, before.own.get(name, {})) for name, parts in before.arms.items()}
        own = {**{name: arm for name, arm in there.items() if not is_built_in(name)}, **own}
    sets = {name: arm.settings for name, arm in own.items()}
    arms: dict[str, Parts] = {DAY: FIXED[DAY]}
    less: list[str] = []
    notes: list[str] = []
    for name in names:
        base, part = without(name)
        arms |= _expanded(base, own, translators)
        less += [ablated(one, part) for one in _named_alone(base, own, translators)] if part else []
    if ablate is not None:
        arms |= _expanded(ablate, own, translators)
        for one in _named_alone(ablate, own, translators):
            changes = overrides(one, sets, head)
            if not adapts_with(changes):
                raise ConfigError(f"--ablate {ablate}: it has no night head to leave parts out of; try {adapted(one)}")
            idle = idle_parts(detector, changes, head)
            less += [ablated(one, part) for part in parts_of(changes, head) if part not in idle]
            # It would be the same arm twice, and their difference no measure of what the part is worth.
            notes += [f"{ablated(one, part)} is left out: {part} does nothing ({why})" for part, why in idle.items()]
    for name in less:
        overrides(name, sets, head)
        whole, part = without(name)
        idle = idle_parts(detector, overrides(whole, sets, head), head)
        if part in idle and (before is None or name not in before.ablated):
            raise ConfigError(f"arm '{name}': {part} does nothing in {whole} ({idle[part]}), so it is the same arm")
    used = {root(name) for name in arms}
    return Asked(arms, {name: sets[name] for name in sets if name in used}, tuple(dict.fromkeys(less)), tuple(notes))


def expand(names: Sequence[str], own: Mapping[str, OwnArm], translators: Sequence[str]) -> dict[str, Parts]:
    """The arms that a list of names asks for, ``day`` first (nothing can be measured without it).

    Raises:
        ConfigError: an unknown arm or translator, or an arm that needs a translator where there is none.
    """
    arms: dict[str, Parts] = {DAY: FIXED[DAY]}
    for name in names:
        arms |= _expanded(name, own, translators)
    check_folders(arms)
    return arms


def _expanded(
    name: str, own: Mapping[str, OwnArm], translators: Sequence[str], students: Sequence[str] = ()
) -> dict[str, Parts]:
    """The arms of one name, each after those that label images for it.

    Args:
        students: arms that it would label for.
    """
    found: dict[str, Parts] = {}
    for arm, parts in _named_alone(name, own, translators).items():
        for teacher in teachers(parts):
            if teacher in (*students, arm):
                raise ConfigError(f"arm '{teacher}' would label images for itself; {PSEUDO}:ARM names another arm")
            theirs = _expanded(teacher, own, translators, (*students, arm))
            if teacher not in theirs:
                raise ConfigError(f"arm '{arm}': {PSEUDO}:{teacher} is several arms; name one of {', '.join(theirs)}")
            found |= theirs
        found[arm] = parts
    return found


def _named_alone(name: str, own: Mapping[str, OwnArm], translators: Sequence[str]) -> dict[str, Parts]:
    """One name: an arm, or one of each translator."""
    first, count = rounds(name)
    if count:
        _check_unlabelled(name, root(name), SELF)
        found = {}
        for arm, parts in _named_alone(first, own, translators).items():
            teacher = arm
            for _ in range(count - 1):
                teacher = student(teacher)
            found[student(teacher)] = with_pseudo(parts, teacher)
        return found
    label, adapts = labelled(name)
    kind, colon, wanted = label.partition(":")
    if adapts:
        _check_unlabelled(name, label, ADAPT)
    if label in FIXED:
        found = {label: FIXED[label]}
    elif label in own:
        found = {label: tuple(_named(name, part, translators) for part in own[label].parts)}
    elif kind in PER_TRANSLATOR:
        if not translators:
            raise ConfigError(f"arm '{name}' needs a translator: add --translator relight, a run or a folder")
        found = {}
        for one in [wanted] if colon else translators:
            # A translator's own name may hold a plus; such a one is mixed by an arms file.
            mixed = [one] if one in translators else one.split("+")
            for each in mixed:
                _check_translator(f"arm '{name}'", each, translators)
            if len(set(mixed)) < len(mixed):
                raise ConfigError(f"arm '{name}': it names a translator twice; weights are for an --arms-file")
            found[f"{kind}:{one}"] = _of_translators(kind, mixed)
    else:
        known = [*FIXED, *PER_TRANSLATOR, *map(adapted, _ADAPTABLE), *map(student, _ADAPTABLE), *own]
        raise ConfigError(f"unknown arm '{name}'{hint_of(name, known)} (there are: {', '.join(known)})")
    return {adapted(one): parts for one, parts in found.items()} if adapts else found


def _check_unlabelled(name: str, label: str, ending: str) -> None:
    if is_built_in(label) and label.partition(":")[0] not in _ADAPTABLE:
        fit = ", ".join(map(student if ending == SELF else adapted, _ADAPTABLE))
        raise ConfigError(f"arm '{name}': {ending} is for arms without night labels ({fit}, or one of your own)")


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
        raise ConfigError(f"{where}: unknown translator '{name}'{hint_of(name, translators)} (given: {given})")


def hint_of(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def is_built_in(name: str) -> bool:
    """Whether an arm's name is one of nightaug's own, with its endings or without."""
    base, part = without(name)
    label = root(base)
    return label != base or part is not None or label in FIXED or label.partition(":")[0] in PER_TRANSLATOR


def is_folder(part: SourceSpec) -> bool:
    """Whether a part's images come from elsewhere than the compared dataset and its translations."""
    return part.data != DATASET and not part.translated and not part.pseudo


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
