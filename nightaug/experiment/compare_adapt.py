"""Arms that also learn from unlabelled night images: their names, their settings, and what each part is worth.

``ARM+adapt`` trains on the labelled images of ``ARM``, and draws beside each of them an unlabelled night image of the
compared dataset for the night head. ``ARM-without-PART`` is an adapted arm with one part of the head left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nightaug.config import flatten, merge
from nightaug.detect.adaptation.settings import AdaptationSettings, Part
from nightaug.errors import ConfigError
from nightaug.experiment import gap

if TYPE_CHECKING:
    from nightaug.experiment.compare_data import Arm

ADAPT = "+adapt"
#: Ends the name of an arm that learns from what the arm before it finds, see compare_self.py.
SELF = "+self"
#: The target of every adapted arm, as train-detector would name it: the labels of these images are never read.
TARGET = "dataset:train:B"
#: Detector settings of which an arm without adaptation and without translated images knows nothing.
BY_ARM = ("adapt", "adaptation", "clip", "clip_gate", "target")
#: What an arm of a file cannot set: the budget and the start, equal in all arms, and what a comparison itself gives.
KEPT = (
    "steps", "batch", "accumulate", "seed", "weights", "pretrained", "detector", "width", "height", "classes",
    "patience", "data", "validation", "rename", "target",
)  # fmt: skip

#: Parts that are a loss and nothing else. The others also choose nodes, add some, or show the images otherwise: their
#: loss may weigh nothing, and they still do something.
_BY_LOSS = ("alignment", "matching", "structure", "node_class", "node_domain", "pyramid_domain")
#: Settings of adaptation that CLIP gating uses too.
_REGIONS = ("cache", "context", "min_side")
_WITHOUT = re.compile(rf"(.+)-without-({'|'.join(get_args(Part))})")

#: Detector settings of one arm, laid over those of the comparison.
Overrides = dict[str, Any]


# -- names -----------------------------------------------------------------------------------------------------


def without(name: str) -> tuple[str, str | None]:
    """``day+adapt-without-sampler`` to ``("day+adapt", "sampler")``; the part is None where none is left out."""
    found = _WITHOUT.fullmatch(name)
    return (found[1], found[2]) if found else (name, None)


def ablated(name: str, part: str) -> str:
    """The opposite of :func:`without`."""
    return f"{name}-without-{part}"


def labelled(name: str) -> tuple[str, bool]:
    """``day+translated+adapt:relight`` to ``("day+translated:relight", True)``: the arm of the labelled images."""
    return _without_ending(name, ADAPT)


def adapted(name: str) -> str:
    """The opposite of :func:`labelled`."""
    return _with_ending(name, ADAPT)


def taught(name: str) -> tuple[str, bool]:
    """``day+translated+self:relight`` to ``("day+translated:relight", True)``: the arm that labels for it."""
    return _without_ending(name, SELF)


def student(name: str) -> str:
    """The opposite of :func:`taught`."""
    return _with_ending(name, SELF)


def _without_ending(name: str, ending: str) -> tuple[str, bool]:
    """Endings stand before the translator: ``ARM+adapt:NAME``."""
    kind, colon, translator = name.partition(":")
    return kind.removesuffix(ending) + colon + translator, kind.endswith(ending)


def _with_ending(name: str, ending: str) -> str:
    kind, colon, translator = name.partition(":")
    return kind + ending + colon + translator


def rounds(name: str) -> tuple[str, int]:
    """``day+self+self`` to ``("day", 2)``."""
    count = 0
    while taught(name)[1]:
        name, count = taught(name)[0], count + 1
    return name, count


def root(name: str) -> str:
    """``mine+adapt+self`` to ``mine``: the arm whose parts and settings it has."""
    return labelled(rounds(name)[0])[0]


# -- settings --------------------------------------------------------------------------------------------------


def read_set(items: Any) -> Overrides:
    """The ``set`` of an arms file, ``{adaptation.parts: [sampler]}``, in sections.

    Raises:
        ConfigError: no settings, or one that is the same in every arm.
    """
    if not isinstance(items, dict):
        raise ConfigError(f"set: expected setting: value, got {items!r}")
    found: Overrides = {}
    for key, value in items.items():
        *sections, last = str(key).split(".")
        nested: Any = {last: value}
        for section in reversed(sections):
            nested = {section: nested}
        found = merge(found, nested)
    kept = [key for key in KEPT if key in found]
    if kept:
        raise ConfigError(f"set: {', '.join(kept)} cannot be an arm's own, all arms are trained and tested alike")
    return found


def overrides(name: str, own: Mapping[str, Overrides], parts: Sequence[str]) -> Overrides:
    """What an arm sets beside the detector settings of the comparison.

    Args:
        own: name of an arm of an arms file -> what that sets.
        parts: of the head, where the arm does not say.

    Raises:
        ConfigError: a part is left out that is not there.
    """
    whole, part = without(name)
    found = dict(own.get(root(whole), {}))
    if labelled(whole)[1]:
        found = merge({"adapt": "vlmcshfg"}, found)
    if part is not None:
        if not adapts_with(found):
            raise ConfigError(f"arm '{name}': {whole} has no night head to leave a part out of; use {adapted(whole)}")
        there = parts_of(found, parts)
        if part not in there:
            raise ConfigError(f"arm '{name}': {part} is not among the parts of {whole} ({', '.join(there) or 'none'})")
        found = merge(found, {"adaptation": {"parts": [one for one in there if one != part]}})
    return found


def adapts_with(changes: Overrides) -> bool:
    """Whether an arm with these settings learns from unlabelled night images."""
    return bool(changes.get("adapt", "none") != "none")


def parts_of(changes: Overrides, parts: Sequence[str]) -> list[str]:
    """The parts of an arm's night head, those of the comparison where it does not say."""
    section = changes.get("adaptation")
    own = section.get("parts") if isinstance(section, dict) else None
    return list(parts if own is None else own)


def idle_parts(base: Mapping[str, Any], changes: Overrides, parts: Sequence[str]) -> dict[str, str]:
    """Those parts of an arm's night head that do nothing, and why: the same arm without one would be the same arm.

    Args:
        base: all settings of the comparison's detector.
        parts: of the head, where the arm does not say.
    """
    found = merge(base, changes)
    weights = found.get("adaptation", {}).get("weights", {})
    idle = {part: "its weight is 0" for part in _BY_LOSS if weights.get(part) == 0}
    if found.get("clip", "none") == "none":
        idle["alignment"] = "no CLIP"
    return {part: idle[part] for part in parts_of(changes, parts) if part in idle}


def arm_settings(base: Mapping[str, Any], changes: Overrides, translated: bool) -> dict[str, Any]:
    """The detector settings an arm is trained with.

    What an arm does not use has its default: such settings may change after it was trained.

    Args:
        base: all settings of the comparison's detector.
        translated: it trains on translated images, which CLIP may judge.
    """
    found = merge(base, changes)
    gated = found["clip_gate"] != "none" and (translated or "clip_gate" in changes)
    if not gated:
        found["clip_gate"] = "none"
    if adapts_with(changes):
        return {**found, "target": TARGET}
    plain = AdaptationSettings().model_dump(mode="json")
    regions = {key: found["adaptation"][key] for key in _REGIONS if key in found["adaptation"]} if gated else {}
    return {**found, "adaptation": {**plain, **regions}, "target": None, "clip": found["clip"] if gated else "none"}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], harmless: Sequence[str]) -> dict[str, str]:
    """Setting -> ``was 1, is 2``; sections are looked into, and CLIP's file may lie elsewhere."""
    old, new = flatten(before), flatten(now)
    return {
        key: f"was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(set(old) | set(new))
        if key not in harmless
        and (key != "clip" or shown_clip(str(old.get(key))) != shown_clip(str(new.get(key))))
        and old.get(key) != new.get(key)
    }


def shown_clip(spec: str) -> str:
    """``MODEL:/data/weights.pt`` or ``/data/clip`` without the folder, which is another one on every machine."""
    if Path(spec).is_absolute():
        return Path(spec).name
    model, colon, tag = spec.partition(":")
    return f"{model}:{Path(tag).name}" if colon and Path(tag).is_absolute() else spec


# -- what each part is worth -----------------------------------------------------------------------------------


def ablation(
    arms: Mapping[str, Arm],
    samples: Mapping[str, gap.Samples],
    day: Mapping[str, Any] | None,
    classes: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """For each arm of which parts were left out: AP with and without each of them.

    Args:
        arms: all that are measured, by key.
        samples: their AP.
        day: row of the day arm, None where it is not finished: a difference is held against its spread over seeds.
        classes: positions of those the mean is over.
        seed: of the bootstrap.

    Returns:
        ``{"arm", "day_spread", "day_seeds", "rows"}`` each, ``day_spread`` null with fewer than two seeds. A row has
        ``part``, ``arm``, ``slug``, ``seeds`` (those both have), ``AP_with``, ``AP_without``, ``difference`` (with less
        without) and its interval ``low`` to ``high``, and ``exceeds_spread``, null without ``day_spread``; a part
        without a number yet has no row.
    """
    spread, seeds = (None, 0) if day is None else (day["AP"]["spread"], len(day["seeds"]))
    found: dict[str, list[dict[str, Any]]] = {}
    for key, arm in arms.items():
        base, part = without(key)
        both = [samples[name] for name in (base, key) if name in samples]
        if part is None or len(both) < 2 or not gap.common_seeds(*both):
            continue
        over = gap.difference(both[0], both[1], classes, seed)
        if not all(map(math.isfinite, over[:3])):
            continue
        given, less = (value for value, _ in gap.means(both, classes, seed))
        row = {
            "part": part,
            "arm": arm.name,
            "slug": arm.slug,
            "seeds": [one for one in both[1].seeds if one in both[0].seeds],
            "AP_with": given,
            "AP_without": less,
            "difference": over.value,
            "low": over.low,
            "high": over.high,
            "exceeds_spread": None if spread is None else abs(over.value) > spread,
        }
        found.setdefault(base, []).append(row)
    return [
        {"arm": arms[base].name, "day_spread": spread, "day_seeds": seeds, "rows": rows} for base, rows in found.items()
    ]
