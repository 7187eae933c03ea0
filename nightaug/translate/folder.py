"""What is in an output folder already: whose it is, and whether a translation may go on in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nightaug.data.formats import TRANSLATION, Dataset
from nightaug.data.results import link_out
from nightaug.errors import ConfigError, DatasetError
from nightaug.translate.plan import Plan, read_manifest

#: Files that tell what a folder is.
_PREPARED = "prepare.json"
#: The folder that curating keeps in a translated one, and what lies in it; the journal goes last.
CURATED = "curated"
ORIGINALS, REPORT, SCORES, JOURNAL = "originals", "curation.json", "scores.json", "journal.jsonl"
_MEASURED = (SCORES, "scores.rows.jsonl", ".scores.rows.jsonl.lock")
#: Facts that must be equal for a folder to be gone on with.
_COMPARED = ("translator", "checkpoint_sha", "direction", "settings")


def has_content(path: Path) -> bool:
    """True for a file with at least one byte."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def input_folders(dataset: Dataset) -> list[Path]:
    """Every folder a translation reads from; nothing may be written there.

    The folder around a single image or label file is not an input as a whole, only where images and labels lie.
    """
    folders = [dataset.root] if dataset.root.is_dir() else []
    for part in dataset.parts:
        folders.append(part.images)
        if part.source is not None:
            folders.append(part.source if part.source.is_dir() else part.source.parent)
    return list(dict.fromkeys(folders))


def check_apart(dataset: Dataset, out: Path) -> None:
    """Refuse an output folder that could overwrite the input, or be read as a part of it next time.

    Raises:
        ConfigError: ``out`` is an input folder, lies in one, or lies around the dataset.
    """
    target = os.path.realpath(out)
    for folder in input_folders(dataset):
        source = os.path.realpath(folder)
        single = not dataset.root.is_dir()
        if target == source or (not single and target.startswith(source + os.sep)):
            raise ConfigError(f"--out {out} lies in the input's own folder {folder}; choose one outside")
        if not single and source.startswith(target + os.sep):
            raise ConfigError(f"--out {out} lies around the input {folder}; choose another folder")


def read_facts(out: Path) -> dict[str, Any] | None:
    """What ``translation.json`` says of a folder; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        facts = json.loads((out / TRANSLATION).read_text("utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("not what nightaug writes there")
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(
            f"{out / TRANSLATION} cannot be read ({error}); choose another --out, or --overwrite"
        ) from error
    return facts


def check_folder(out: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse a folder that holds something else than this translation.

    Raises:
        ConfigError: it holds a prepared dataset, files of somebody else, or (without ``overwrite``) a
            translation by another translator or with other settings, or of another split that is not finished.
    """
    if (out / _PREPARED).exists():
        raise ConfigError(f"{out} holds a prepared dataset; choose another --out")
    if overwrite:
        return
    before = read_facts(out)
    if before is None:
        if any(entry.name != ".lock" for entry in out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no translation; choose another --out")
        return
    sha = facts["checkpoint_sha"]
    for key in _COMPARED:
        if key == "translator" and sha is not None and sha == before.get("checkpoint_sha"):
            continue  # a path, which may be spelled in many ways; the checksum has told the weights apart
        was, now = before.get(key), json.loads(json.dumps(facts[key]))
        if was != now:
            raise ConfigError(
                f"{out} holds images made with {key} {was}, now it is {now}; choose another --out, or --overwrite"
            )
    begun, now = before.get("split", facts["split"]), facts["split"]
    if before.get("finished") is False and now not in ("all", begun):
        # The facts say of the whole folder whether it is finished.
        raise ConfigError(f"{out}: the translation of split {begun} was stopped; finish it first, with --split {begun}")


def check_links(out: Path, plan: Plan) -> None:
    """Refuse an output folder in which a link leads elsewhere: writing through it would change other files.

    Raises:
        ConfigError: naming the link.
    """
    folders = {os.path.dirname(item.output) for item in plan.items}
    folders |= {str(part.labels) for part in plan.parts if part.labels is not None}
    link = link_out(out, folders)
    if link is not None:
        raise ConfigError(f"{link} is a link that leads out of --out; remove it or choose another --out")


def remove_curation(out: Path, scores: bool = True) -> None:
    """Remove what curating keeps in a translated folder; nothing else, and nothing outside.

    Args:
        scores: also the scores that were made for it.
    """
    folder = out / CURATED
    if folder.is_symlink() or not folder.is_dir():
        return
    originals = folder / ORIGINALS
    if originals.is_dir() and not originals.is_symlink():
        shutil.rmtree(originals)
    for name in (REPORT, *(_MEASURED if scores else ()), JOURNAL):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody's file is in it
        folder.rmdir()


def remove_former(out: Path) -> None:
    """Remove the images a former translation made here, and their curation; nothing else, and nothing outside."""
    _remove_images(out)
    # Last: a run killed before this leaves a curated folder, which curating can still undo.
    remove_curation(out)


def _remove_images(out: Path) -> None:
    root = os.path.realpath(out)
    try:
        rows = list(read_manifest(out))
    except DatasetError:
        return  # not a translation's manifest: nothing here is known to be ours
    for row in rows:
        path = out / row.output
        place = os.path.realpath(path.parent)
        if (place == root or place.startswith(os.path.join(root, ""))) and path.is_file():
            path.unlink()
    (out / "manifest.jsonl").unlink(missing_ok=True)
