"""``nightaug curate`` as one function: get scores, curate, say what became of images, boxes and classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug.config import build
from nightaug.curate.curate import CurateReport, check_mendable, curate, translation_facts, undo
from nightaug.curate.ledger import Ledger, read_rows
from nightaug.curate.origins import lies_inside
from nightaug.curate.scores import TranslationScores, read_scores, write_scores
from nightaug.curate.settings import CurateSettings
from nightaug.curate.summary import blind_judge
from nightaug.errors import ConfigError, DatasetError, Interrupted
from nightaug.runs import StopRequest, file_sha256, progress_bar
from nightaug.translate.folder import CURATED, REPORT, SCORES
from nightaug.translate.translators import relights

#: Share of images or boxes from which on dropping deserves a warning.
_MUCH = 0.1
#: Names that are said before the rest is left to the report.
_SAID = 5

Say = Callable[[str], None]


def run_curate(
    translated: str | os.PathLike[str],
    layers: Sequence[Mapping[str, Any]] = (),
    *,
    scores: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    judge: str | os.PathLike[str] | None = None,
    clip: str | None = None,
    real: str | os.PathLike[str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    undone: bool = False,
    say: Say = lambda text: None,
) -> CurateReport | None:
    """Curate a translated folder, or undo that; None after undoing. Arguments as the command's options.

    Args:
        layers: settings of :class:`CurateSettings`, later ones win.
        scores: file of ``nightaug score-translation``; None: those made here before, or new ones.
        undone: undo instead.

    Raises:
        ConfigError: a wrong setting, options that exclude each other, or the folder is in use.
        DatasetError: no translated folder, or scores of other images.
        CheckpointError: no usable judge or CLIP.
        Interrupted: stopped by Ctrl-C; run again to go on.
        NightaugError: the folder cannot be written.
    """
    translated = Path(translated)
    source, judge, real = (None if path is None else Path(path) for path in (source, judge, real))
    making = {"--judge": judge, "--clip": clip, "--real": real}
    given = [name for name, value in making.items() if value is not None]
    if (undone or scores is not None) and given:
        raise ConfigError(f"{given[0]} is for making scores; leave it out with {'--undo' if undone else '--scores'}")
    if undone and (scores is not None or dry_run):
        raise ConfigError("--undo needs neither --scores nor --dry-run")
    if undone:
        restored, anew = undo(translated)
        stay = f"; {anew:,} translated anew since stay as they are" if anew else ""
        nothing = f"{translated}: nothing to undo"
        say(f"{restored:,} images of {translated} are as they were{stay}" if restored or anew else nothing)
        return None
    settings = build(CurateSettings, *layers)
    if scores is not None:
        found = read_scores(scores)
    else:
        found = _own_scores(translated, settings.mode, source, judge, clip, real, device, workers, dry_run, say)
    blind = blind_judge(found.summary)
    if blind:
        say(f"warning: {blind}; score with another --judge")
    report = curate(
        translated, found, settings, source=source, workers=workers, dry_run=dry_run, bar=progress_bar
    )  # fmt: skip
    _tell(report, translated, dry_run, say)
    return report


def check_curating(
    source: Path,
    mode: str | None,
    translator: str,
    direction: str,
    *,
    judge: Path | None = None,
    clip: str | None = None,
    real: Path | None = None,
    device: str | None = None,
    images: Path | None = None,
) -> None:
    """Refuse, before hours of translating, what curating the result would refuse afterwards.

    Arguments as the options of ``nightaug translate``.

    Raises:
        ConfigError: the result could not be mended, or its source not be found again; no such CLIP or device.
        DatasetError: there are no real night images there.
        CheckpointError: no usable judge or CLIP.
    """
    if mode == "mend" and relights(translator):
        raise ConfigError(
            "--curate-mode mend repairs with relight, which cannot mend its own images; use drop or weigh"
        )
    if mode == "mend" and direction != "day2night":
        raise ConfigError("--curate-mode mend only repairs translations to night; use drop or weigh")
    root = source if source.is_dir() else source.parent
    if images is not None and not lies_inside(images, root):
        raise ConfigError(f"--curate finds the images again by {source} alone, and {images} lies outside of {root}")
    _check_witnesses(judge, clip, real, device)


def _check_witnesses(judge: Path | None, clip: str | None, real: Path | None, device: str | None) -> None:
    """Refuse what scores could not be made with.

    Raises:
        DatasetError: there are no real night images there.
        ConfigError: no such CLIP or device.
        CheckpointError: no usable judge or CLIP.
    """
    if real is not None and not real.exists():
        raise DatasetError(f"--real {real}: no such file or folder")
    if device is not None:
        from nightaug.devices import check_device

        check_device(device)
    if judge is not None:
        from nightaug.detect.checkpoint import find_detector, read_facts

        read_facts(find_detector(judge))
    if clip is not None and clip != "none":
        from nightaug.clip.encoder import load_clip

        load_clip(clip, device or "cpu", optional=True)


def _own_scores(
    translated: Path,
    mode: str,
    source: Path | None,
    judge: Path | None,
    clip: str | None,
    real: Path | None,
    device: str | None,
    workers: int | None,
    dry_run: bool,
    say: Say,
) -> TranslationScores:
    """The scores made here before where they are of these images and were made so, else new ones."""
    path = translated / CURATED / SCORES
    asked = {"judge": str(judge), "clip": str(clip), "real": str(real)}
    anything = judge is not None or clip is not None or real is not None
    if judge is not None:
        from nightaug.detect.checkpoint import find_detector

        asked["judge_sha256"] = file_sha256(find_detector(judge))  # another one may lie there by now
    asked["source"] = os.path.abspath(source or str(translation_facts(translated).get("input", "")))
    rows, ledger = read_rows(translated), Ledger(translated)
    if path.is_file():
        found = read_scores(path)
        sums = {score.output: score.sha256 for score in found.images}
        sums |= {output: "" for output in found.failed if output not in sums}
        same = all(sums.get(row.known.output) in ("", ledger.before(row)[1]) for row in rows)
        if same and (not anything or found.settings.get("asked") == asked):
            return found
    if dry_run:
        raise ConfigError("--dry-run makes no scores; make them with nightaug score-translation, and give --scores")
    if source is None:
        source = _source_of(translated)
    if mode == "mend":
        check_mendable(translated, rows)
    if ledger.header is not None:
        # Images are scored as they were translated; a wrong option must not cost what was curated before.
        _check_witnesses(judge, clip, real, device)
        _check_inputs(source, translated, real)
        undo(translated)
    from nightaug.curate.faithfulness import score_translation

    stop = StopRequest()
    made = score_translation(
        source, translated, out=path, real=real, judge=judge, clip=clip or "none", device=device, workers=workers,
        gallery=False, stop=stop, say=say,
    )  # fmt: skip
    made.settings["asked"] = asked
    write_scores(path, made)
    if stop.requested:
        raise Interrupted("stopped before curating, the scores are made; run the same command again to go on")
    return made


def _check_inputs(source: Path, translated: Path, real: Path | None) -> None:
    """Refuse a source that is none of these images, and real nights where there are none.

    Raises:
        DatasetError: it is so.
    """
    from nightaug.curate.pairs import find_pairs, find_real

    pairs = find_pairs(source, translated)
    if real is not None:
        find_real(real, pairs, 1)


def _source_of(translated: Path) -> Path:
    named = translation_facts(translated).get("input")
    if not isinstance(named, str) or not Path(named).exists():
        raise DatasetError(f"{translated}: what was translated ({named}) is not there; name it with --source")
    return Path(named)


def _tell(report: CurateReport, translated: Path, dry_run: bool, say: Say) -> None:
    images = report.images
    kinds = ("kept", "mended", "weighed", "dropped")
    without = f", {images['unscored']:,} without scores left alone" if images["unscored"] else ""
    say(f"{images['total']:,} images: " + ", ".join(f"{images[kind]:,} {kind}" for kind in kinds) + without)
    say(f"dropped {report.drop_share:.1%} of images, {report.box_drop_share:.1%} of boxes")
    for name, one in report.boxes.items():
        gone, back = one.dropped / max(one.total, 1), report.brought_back.get(name, 0)
        note = f", {back:,} kept only as max_class_share says" if back else ""
        untold = f" ({one.unmeasured:,} could not be measured)" if one.unmeasured else ""
        say(f"  {name}: {one.total:,} boxes{untold}, {one.mended:,} mended, {one.dropped:,} dropped ({gone:.1%}){note}")
    found = report.invented
    if found["found"]:
        say(f"{found['found']:,} invented objects and lamps, {found['mended']:,} of them painted over")
    if report.drop_share > _MUCH or report.box_drop_share > _MUCH:
        say("warning: over a tenth is dropped; is the judge good at night? mode=mend keeps more")
    for name, reason in list(report.failed.items())[:_SAID]:
        say(f"  not mended {name}: {reason}")
    if len(report.failed) > _SAID:
        say(f"  ... and {len(report.failed) - _SAID:,} more, all listed in {translated / CURATED / REPORT}")
    if report.judge_night_boxes is None:
        say("it cannot be told whether the judge was trained on labels of night images; if so, an arms file says so")
    if dry_run:
        say("nothing was changed (--dry-run)")
    else:
        say(f"curated {translated}; what was done is in {translated / CURATED / REPORT}, undo with --undo")
