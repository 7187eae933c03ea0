"""Training for open vocabularies: the detectors' recipe with seen classes alone, embeddings, and class names as text.

Labels of unseen classes are left out, as if nobody had labelled them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug.data.formats import Dataset, open_dataset
from nightaug.detect.checkpoint import find_detector, read_facts
from nightaug.detect.detectors import build_detector
from nightaug.detect.openvocab.extend import check_held_out, store_facts
from nightaug.detect.openvocab.splits import ClassSplit, class_split
from nightaug.detect.openvocab.store import ProposalStore
from nightaug.detect.openvocab.vocabulary import (
    had_boxes,
    lasting_clip,
    load_text,
    reads_text,
    set_rivals,
    set_text,
    taught,
)
from nightaug.detect.recipe import Ready, TrainingData, run_recipe
from nightaug.detect.settings import TWO_STAGE, DetectorSettings
from nightaug.detect.sources import SourceSpec, known_classes, load_source, map_classes, parse_source
from nightaug.detect.train import TrainResult
from nightaug.errors import ConfigError

#: Method -> what it means in the detector's settings.
METHODS: dict[str, dict[str, Any]] = {
    "proposals": {"rcnn": {"head": "softmax", "class_agnostic": True}},
    "vild": {"rcnn": {"head": "vild", "class_agnostic": False}},
    "lp-ovod": {"rcnn": {"head": "lp-ovod", "class_agnostic": False}},
    "vldus": {"rcnn": {"head": "softmax", "class_agnostic": False}},
}
#: Those that learn from an embedding store, and read class names.
WITH_TEXT = ("vild", "lp-ovod")
#: What is trained where neither a preset nor the user says.
_DEFAULTS = {"detector": f"{TWO_STAGE}-resnet50"}


def run_training(
    dataset: Path,
    out: Path,
    layers: Sequence[Mapping[str, Any]],
    method: str,
    *,
    embeddings: Path | None = None,
    clip: str | None = None,
    unseen: Sequence[str] | None = None,
    split_name: str | None = None,
    drop_unseen_images: bool = False,
    epochs: int | None = None,
    resume: bool = False,
    cpu: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> TrainResult | None:
    """Train a detector of one of :data:`METHODS`; None after a dry run, and in all processes but the main one.

    Args:
        layers: settings of the detector, the later ones win; the method's own stand above them.
        embeddings: the store that ``vild`` and ``lp-ovod`` learn from, of all training images.
        clip: of the store, if it is no longer where it was.
        unseen, split_name: classes to leave out, see :func:`~nightaug.detect.openvocab.splits.class_split`; neither
            of them trains on every labelled class, or on those the settings name.
        drop_unseen_images: leave out whole images that show a class to leave out, as zero-shot detection is measured
            (Bansal et al., ECCV 2018); else such objects are there, unlabelled, and learnt as background.
        epochs, resume, cpu, dry_run, say: as :func:`~nightaug.detect.recipe.run_recipe`.

    Raises:
        ConfigError: unknown method, settings of another one, embeddings that are missing or not wanted, or a split
            that does not fit. Others as ``run_recipe``.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown --method '{method}' (there are: {', '.join(METHODS)})")
    if (embeddings is None) == (method in WITH_TEXT):
        raise ConfigError(
            f"--method {method} learns from CLIP's embeddings: make them with nightaug openvocab embed and add "
            "--embeddings FOLDER"
            if embeddings is None
            else f"--embeddings is for --method {' and '.join(WITH_TEXT)}; {method} does not look at them"
        )
    layers = [_DEFAULTS, *layers, METHODS[method]]
    held: tuple[str, ...] = ()
    if unseen is not None or split_name is not None:
        split = _split(open_dataset(dataset), layers, unseen, split_name)
        layers.append({"classes": split.seen})
        held = split.unseen
    if drop_unseen_images:
        if not held:
            raise ConfigError("--drop-unseen-images: say which classes are unseen with --unseen or --class-split")
        layers.append({"exclude": held})
    before = out / "last.safetensors" if resume else None

    def make(settings: DetectorSettings, data: TrainingData) -> Ready:
        if not settings.detector.startswith(TWO_STAGE):
            raise ConfigError(
                f"--detector {settings.detector}: open vocabularies need a two-stage one, {TWO_STAGE}-resnet18|50|101"
            )
        notes = [] if settings.classes else ["every labelled class is trained on: none is held out (see --unseen)"]
        if held and str(settings.pretrained).startswith("COCO"):
            notes.append(f"pretrained {settings.pretrained} has learnt from boxes of COCO's classes, held out or not")
        start = settings.weights
        if start is not None and (shown := had_boxes(taught(read_facts(find_detector(Path(start)))), held)):
            notes.append(f"weights {start} have learnt from boxes of {', '.join(shown)}, held out or not")
        if embeddings is None:
            return Ready(notes=notes)
        store = ProposalStore(embeddings)
        check_held_out(store, held, notes.append)
        return _ready(settings, data, store, clip, notes, before)

    return run_recipe(dataset, out, layers, epochs, resume, cpu, dry_run, say, make)


def _ready(
    settings: DetectorSettings,
    data: TrainingData,
    store: ProposalStore,
    clip: str | None,
    notes: list[str],
    before: Path | None,
) -> Ready:
    """The detector with the classes' text embeddings in it, and the store it learns from.

    ``before``: weights of the run that is resumed, if it has any yet.
    """
    paths = [frame.path for source in data.sources if source.weight > 0 for frame in source.frames if frame.path]
    missing = store.missing(paths)
    if missing:
        raise ConfigError(
            f"{store.path} lacks {len(missing):,} of the {len(paths):,} training images (the first: {missing[0]}); "
            "embed with the same --data as you train with (and again, if the images have moved: that is quick)"
        )
    text = load_text(store.facts, clip)
    if settings.weights is not None:
        learned = (read_facts(find_detector(Path(settings.weights))).get("facts") or {}).get("clip_sha")
        if learned not in (None, text.sha):
            raise ConfigError(f"weights {settings.weights} learned from another CLIP than that of {store.path}")
    identity = store_facts(store)
    if before is not None and before.exists():
        known = (read_facts(before).get("facts") or {}).get("store", {})
        if changed := [key for key in identity if known.get(key, identity[key]) != identity[key]]:
            raise ConfigError(
                f"--resume with other --embeddings than {before.parent} was started with (another "
                f"{', '.join(changed)}); take those, or choose another --out"
            )
    facts = {
        "embedding": store.width, "clip": lasting_clip(clip or store.clip), "clip_sha": text.sha, "store": identity,
    }  # fmt: skip
    detector = build_detector(settings, data.classes, pretrained=settings.weights is None, facts=facts)
    set_text(detector, data.classes, text)
    if reads_text(detector):
        set_rivals(detector, settings.rcnn.vild.rivals, text)
    notes.append(f"embeddings: {store.facts['boxes']:,} regions of {len(store):,} images in {store.path}")
    return Ready(detector, store, notes)


def _split(
    dataset: Dataset, layers: Sequence[Mapping[str, Any]], unseen: Sequence[str] | None, name: str | None
) -> ClassSplit:
    """The split of the classes that the training labels have."""
    texts: Sequence[str] = ()
    rename: dict[str, str] = {}
    for layer in layers:
        texts = layer.get("data") or texts
        rename = {**rename, **(layer.get("rename") or {})}
    specs = [parse_source(text) for text in texts] or [SourceSpec("dataset")]
    frames = [frame for spec in specs if spec.weight > 0 for frame in load_source(spec, dataset).frames]
    return class_split(name, unseen, known_classes(map_classes(frames, rename), dataset.classes))
