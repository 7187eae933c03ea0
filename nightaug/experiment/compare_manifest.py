"""What a translated folder says of itself: what was not made, night labels in its making or its curation."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nightaug.data.formats import TRANSLATION
from nightaug.experiment.compare_settings import SourceSpec
from nightaug.translate.folder import CURATED, REPORT


class _Says(msgspec.Struct):
    """How a manifest says that its translator was trained with labels of night images."""

    night_boxes: bool = False


def facts_in(path: Path) -> dict[str, object]:
    """What a JSON file says; nothing where it is not there, damaged or no mapping."""
    try:
        facts = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def untranslated(folder: Path, spec: SourceSpec) -> int:
    """Images of the part that the translator could not make."""
    skipped = facts_in(folder / TRANSLATION).get("skipped")
    return sum(name.startswith(f"{spec.split}/") for name in skipped) if isinstance(skipped, dict) else 0


def says_night_boxes(folder: Path) -> bool:
    """Whether the translation says that its translator, or the judge it was curated by, was trained with labels of
    night images."""
    if facts_in(folder / CURATED / REPORT).get("judge_night_boxes") is True:
        return True
    facts = facts_in(folder / TRANSLATION)
    settings = facts.get("settings")
    if facts.get("night_boxes") is True or (isinstance(settings, dict) and settings.get("night_boxes") is True):
        return True
    decoder = msgspec.json.Decoder(_Says)
    for line in (folder / "manifest.jsonl").read_bytes().splitlines():
        try:
            if decoder.decode(line).night_boxes:
                return True
        except (ValueError, RecursionError):
            continue
    return False
