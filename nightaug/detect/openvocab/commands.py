"""``nightaug openvocab probe``, ``synthesize`` and ``predict``: what the commands name, opened, and handed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug.clip.prompts import Prompts
from nightaug.config import build
from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.data.formats import open_dataset
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts
from nightaug.detect.openvocab.crop_detector import CropDetector, naming_clip
from nightaug.detect.openvocab.extend import check_held_out
from nightaug.detect.openvocab.probe import ProbeResult, run_probe
from nightaug.detect.openvocab.settings import ProbeSettings, VLDUSSettings
from nightaug.detect.openvocab.splits import check_spelling, class_split
from nightaug.detect.openvocab.store import ProposalStore
from nightaug.detect.openvocab.synthesize import SynthesisResult, run_synthesis
from nightaug.detect.openvocab.vocabulary import is_class_agnostic, load_text, reads_text, write_with_classes
from nightaug.detect.predict import Named, PredictResult, run_predict
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import load_source, map_classes, parse_source, without_images_of
from nightaug.errors import ConfigError, DatasetError

Say = Callable[[str], None]


def probe(
    run: Path,
    out: Path,
    layers: Sequence[Mapping[str, Any]],
    *,
    embeddings: Path,
    novel: Sequence[str] | None = None,
    split_name: str | None = None,
    clip: str | None = None,
    say: Say = lambda text: None,
    **options: Any,
) -> ProbeResult:
    """Teach novel classes to an LP-OVOD run, see :func:`~nightaug.detect.openvocab.probe.run_probe`.

    Args:
        layers: of :class:`~nightaug.detect.openvocab.settings.ProbeSettings`.
        embeddings: the store to search.
        novel, split_name: names, or a split whose unseen classes are meant.
        clip: of the store, if it is no longer where it was.
        options: as ``run_probe``.
    """
    settings = build(ProbeSettings, *layers)
    names = _unseen(run, novel, split_name)
    store = ProposalStore(embeddings)
    if gone := store.gone():
        text = (
            f"{len(gone):,} of the {len(store):,} images of {embeddings} are not there any more (the first: {gone[0]} "
            f"in {store.root})"
        )
        if len(gone) == len(store):
            raise DatasetError(f"{text}; if they have moved, run the same nightaug openvocab embed on them again")
        say(f"{text}: nothing is taken from them")
    check_held_out(store, [canonical_class(name) for name in names], say)
    prompts = Prompts(load_text(store.facts, clip))
    return run_probe(run, out, store, names, prompts.embed, settings, say=say, **options)


def synthesize(
    run: Path,
    dataset: Path,
    out: Path,
    layers: Sequence[Mapping[str, Any]],
    *,
    data: Sequence[str] = (),
    unseen: Sequence[str] | None = None,
    split_name: str | None = None,
    embeddings: Path | None = None,
    clip: str | None = None,
    say: Say = lambda text: None,
    **options: Any,
) -> SynthesisResult:
    """Give unseen classes to a VLDUS run, see :func:`~nightaug.detect.openvocab.synthesize.run_synthesis`.

    Args:
        layers: of :class:`~nightaug.detect.openvocab.settings.VLDUSSettings`.
        data: NAME:SPLIT:DOMAIN each; nothing means what the run was trained on.
        unseen, split_name: names, or a split whose unseen classes are meant.
        embeddings: a store whose CLIP embeddings are distilled; None: no distillation.
        clip: that reads the class names; of the store where there is one.
        options: as ``run_synthesis``.
    """
    settings = build(VLDUSSettings, *layers)
    opened = open_dataset(dataset)
    names = _unseen(run, unseen, split_name, opened.classes)
    trained = build(DetectorSettings, read_facts(find_detector(run))["settings"])
    specs = [parse_source(text) for text in (*data,) or trained.data or ("dataset",)]
    frames = [frame for spec in specs if spec.weight > 0 for frame in load_source(spec, opened).frames]
    frames = without_images_of(map_classes(frames, trained.rename), trained.exclude)
    store = ProposalStore(embeddings) if embeddings is not None else None
    if store is not None and (missing := store.missing([frame.path for frame in frames if frame.path])):
        raise ConfigError(
            f"{embeddings} lacks {len(missing):,} of the {len(frames):,} images (the first: {missing[0]}); embed with "
            "the same --data (and again, if the images have moved: that is quick)"
        )
    check_held_out(store, [canonical_class(name) for name in names], say)
    text = Prompts(load_text(store.facts if store is not None else {}, clip))
    return run_synthesis(run, out, frames, names, text.embed, settings, store=store, say=say, **options)


def _unseen(run: Path, names: Sequence[str] | None, split_name: str | None, known: Sequence[str] = ()) -> list[str]:
    """The classes a run is to be taught; ``known``: class names beside the run's own, for misspelt ones."""
    if (names is None) == (split_name is None):
        raise ConfigError("say which classes to teach, either with --unseen a,b or with --class-split NAME")
    own: list[str] = read_facts(find_detector(run))["classes"]
    if names is not None:
        check_spelling(names, [*own, *known])
        return list(names)
    return list(class_split(split_name, None, own).unseen)


def predict(
    run: Path,
    input: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    clip: str | None = None,
    dry_run: bool = False,
    say: Say = lambda text: None,
    **options: Any,
) -> PredictResult | None:
    """Detect classes by name, see :func:`~nightaug.detect.predict.run_predict`; None after a dry run.

    For a detector that reads text ``OUT.safetensors`` is written: the same one, which looks for these classes and can
    be used like any other detector. The boxes of a class-agnostic detector are named by CLIP from their crops. Of
    other detectors the classes must be known ones, and only they are shown.

    Args:
        classes: names; None: those the detector knows.
        clip: of the run, if it is no longer where it was; of a class-agnostic one, the CLIP that names its boxes.
        options: as ``run_predict``.
    """
    weights = find_detector(run)
    bare = is_class_agnostic(read_facts(weights))
    if classes is None:
        if bare and clip is not None:
            raise ConfigError('--clip names the proposals: say what to look for, --classes "bus,ambulance"')
        return run_predict(run, input, out, dry_run=dry_run, say=say, **options)
    if bare:
        names = canonical_classes(classes)
        text = naming_clip(clip, options.get("device"))
        named = Named(names, lambda device: CropDetector(load_detector(weights, device), text, names), text.sha)
        say("the proposals are named by CLIP from their crops")
        return run_predict(run, input, out, named=named, dry_run=dry_run, say=say, **options)
    if not reads_text(load_detector(weights)):
        return run_predict(run, input, out, classes=classes, dry_run=dry_run, say=say, **options)
    whole = Path(os.path.abspath(out))  # "." has no name of its own
    file = (out if out.name == whole.name else whole).with_name(whole.name + ".safetensors")
    if dry_run:
        say(f"would look for {', '.join(classes)}, with {file}")
        return run_predict(run, input, out, dry_run=True, say=say, **options)
    known = write_with_classes(run, classes, file, clip)
    say(f"{file}: a detector for {', '.join(known)}")
    return run_predict(file, input, out, say=say, **options)
