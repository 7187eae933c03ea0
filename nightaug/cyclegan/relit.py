"""Training from relit days: the generator begins where the training-free renderer ends.

What ``relight`` cannot know (noise, tone, glow, what dark surfaces look like) is a smaller step than day to night is,
and the lamps of labelled objects are lit already. Translating then relights first, see
:meth:`nightaug.translate.translators.Translator.load`; this package only reads the relit images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nightaug.data.formats import TRANSLATION
from nightaug.data.results import LOOK
from nightaug.errors import ConfigError, DatasetError

#: What a translated folder says of itself, and of its images; see docs/translate.md.
_MANIFEST = "manifest.jsonl"
_RELIGHT = "relight"


class RelitDays(NamedTuple):
    """Relit versions of day images.

    ``of``: day image -> its relit version; ``strength``: of relight, in [0, 1], None where nothing was relit.
    """

    of: dict[Path, Path]
    strength: float | None


def read_relit(given: str | None, root: Path, days: Sequence[Path]) -> RelitDays:
    """The relit versions of a dataset's day images.

    Args:
        given: a folder made by ``nightaug translate ROOT --translator relight``; None: nothing is relit.
        root: the prepared dataset.
        days: its day images that are needed.

    Raises:
        ConfigError: the folder is of another translator or dataset, or is not finished.
        DatasetError: it cannot be read.
    """
    if given is None:
        return RelitDays({}, None)
    folder = Path(given)
    how = f"make it with: nightaug translate {root} --translator relight --out FOLDER"
    try:
        facts = json.loads((folder / TRANSLATION).read_text("utf-8"))
        rows = [json.loads(line) for line in (folder / _MANIFEST).read_text("utf-8").splitlines()]
        made_by, finished = facts["translator"], facts.get("finished") is True
        strength = float(facts["settings"]["strength"]) if made_by == _RELIGHT else 1.0
        constants, look = facts["settings"].get("relight"), facts["settings"].get("look")
        outputs = {str(row["source"]): folder / str(row["output"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"day={folder}: no folder of translated images ({error}); {how}") from error
    if made_by != _RELIGHT:
        raise ConfigError(f"day={folder}: its images were made by {made_by}, and only relit days can be refined; {how}")
    if constants:
        # Weights remember a strength and no more, and who translates with them relights as they remember.
        raise ConfigError(f"day={folder}: it was relit with --set {', '.join(constants)}; relight without it")
    if look != LOOK:
        raise ConfigError(f"day={folder}: it was relit by another version, and images look different today; {how}")
    if not finished:
        raise ConfigError(f"day={folder}: it is not finished; run nightaug translate again to go on")
    base = folder.resolve()
    if any(not path.resolve().is_relative_to(base) for path in outputs.values()):
        raise DatasetError(f"day={folder}: its manifest names files outside of it; {how}")
    found = {path: outputs.get(path.relative_to(root).as_posix()) for path in days}
    missing = [path for path, relit in found.items() if relit is None or not relit.is_file()]
    if missing:
        raise ConfigError(
            f"day={folder}: {len(missing):,} of the {len(days):,} day images have no relit version there, the first is "
            f"{missing[0].name}; {how}"
        )
    return RelitDays({path: relit for path, relit in found.items() if relit is not None}, strength)
