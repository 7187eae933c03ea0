"""Unseen classes by synthetic region features (VLDUS, METHODS section 5).

Real region features of seen classes, an unseen classifier, a generator of features from class names, and a last layer
for the detector trained on what the generator makes of seen and unseen classes alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nightaug import __version__
from nightaug.config import Settings
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.detect.adaptation.consistency import draw
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.dataset import frame_arrays
from nightaug.detect.detectors.region_head import SoftmaxHead
from nightaug.detect.openvocab.extend import (
    Trained,
    embed_names,
    new_classes,
    open_trained,
    store_facts,
    text_sha,
    write_extended,
)
from nightaug.detect.openvocab.features import Chosen, Columns, GrowingArrays, columns, row_bytes, take_features
from nightaug.detect.openvocab.regions import Embed, RegionStore
from nightaug.detect.openvocab.seen import domain_of, seen_regions
from nightaug.detect.openvocab.settings import VLDUSSettings
from nightaug.detect.openvocab.synthesizer import RealFeatures, Synthesizer
from nightaug.detect.openvocab.unseen import UnseenClassifier, train_classifier
from nightaug.detect.sampling import Source
from nightaug.detect.sources import fingerprint
from nightaug.devices import default_device
from nightaug.errors import ConfigError, DatasetError
from nightaug.runs import RunFolder, StopRequest, progress_bar
from nightaug.training import LossMeans, halt, spoilt_weights, training_errors

#: Streams of chance: regions of an image, features that are kept, both classifiers.
_REGIONS, _OBJECTS, _BACKGROUNDS, _UNSEEN, _LAST = range(5, 10)


class SynthesisResult(NamedTuple):
    """``file``: the detector's weight file, with seen and unseen classes (None if stopped before); ``objects`` and
    ``backgrounds``: real region features; ``step``: of the generator; ``finished``: False after a Ctrl-C."""

    file: Path | None
    objects: int
    backgrounds: int
    step: int
    finished: bool


class SynthesisRecord(Settings):
    """What a synthesis' ``config.yaml`` says: resumed with anything else it would be another run."""

    detector: str
    detector_sha256: str
    frames: str
    store: dict[str, str] | None
    unseen: tuple[str, ...]
    text_sha256: str
    synthesis: VLDUSSettings


def run_synthesis(
    run: Path,
    out: Path,
    frames: Sequence[Frame],
    unseen: Sequence[str],
    embed: Embed,
    settings: VLDUSSettings | None = None,
    *,
    store: RegionStore | None = None,
    resume: bool = False,
    which: str | None = None,
    batch: int = 8,
    workers: int = 0,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> SynthesisResult:
    """Give a trained detector unseen classes; writes a run folder whose last.safetensors is a detector.

    Args:
        run: run folder or weight file of a detector with ``rcnn.head=softmax``, trained on the seen classes.
        out: run folder to write; must not be ``run``.
        frames: labelled training frames with ``path``; boxes of classes the detector does not know are left out.
        unseen: class names to add, aliases allowed.
        embed: text embeddings of class names (``Prompts(clip).embed``).
        store: embeddings of proposals of these frames, by the same CLIP: regions are then the store's proposals, and
            CLIP's view of them is distilled. None: the detector's own proposals, and no distillation.
        resume: go on with what ``out`` holds.
        which: ``best`` or ``last`` of ``run``.
        batch, workers: images a forward pass, and processes that decode them, while features are taken.
        device: None: a GPU where there is one.
        say: takes lines for people.

    Raises:
        ConfigError: not a softmax detector of the two-stage kind, an unseen class is known already, the store is of
            another CLIP, or ``out`` cannot be used.
        DatasetError: no region of a seen class was found, or a frame is not in the store.
        CheckpointError: weights or state are missing or damaged.
    """
    settings = settings or VLDUSSettings()
    device = device or default_device()
    trained = open_trained(run, which, device)
    if not isinstance(trained.detector.head, SoftmaxHead) or trained.settings.rcnn.class_agnostic:
        raise ConfigError(
            f"{trained.file} has no plain classifier of seen classes: train it with nightaug openvocab train --method "
            "vldus"
        )
    if trained.detector.facts.get("novel"):
        raise ConfigError(
            f"{trained.file} has made-up classes already: synthesize from its base run, with all the unseen classes"
        )
    if store is not None and store.facts.get("stage") == "labels":
        raise ConfigError(
            "these embeddings are of labelled boxes, which show no background: embed the proposals of a detector"
        )
    names = new_classes(unseen, trained.detector.classes)
    text = embed_names(embed, (*trained.detector.classes, *names), store, device)
    frames = sorted((frame for frame in frames if frame.path is not None), key=lambda frame: str(frame.path))
    if settings.domains and all(domain_of(frame) < 0 for frame in frames):
        raise ConfigError("domains=true needs frames that say whether it is day or night; these do not")
    record = SynthesisRecord(
        detector=trained.file.name,
        detector_sha256=trained.sha,
        frames=fingerprint([Source("frames", frames)]),
        store=None if store is None else store_facts(store),
        unseen=names,
        text_sha256=text_sha(text),
        synthesis=settings,
    )
    folder = RunFolder(out)
    folder.start(record, resume, ("synthesis.log_every", "synthesis.save_every"), say)
    try:
        with training_errors(out, "a smaller --batch"), StopRequest().listen() as stop:
            folder.write_settings(record)
            folder.log(f"nightaug {__version__}: features of {', '.join(names)} for {trained.file}")
            most = len(frames) * (settings.objects + settings.backgrounds)
            size = most * row_bytes(_columns(trained, store, settings))
            say(f"region features of {len(frames):,} images: at most {size / 1e6:,.0f} MB in {out}")
            arrays = _features(trained, out, frames, store, settings, batch, workers, stop)
            if arrays is None:
                return SynthesisResult(None, 0, 0, 0, False)
            labels = np.asarray(arrays.read("label"))
            objects, around = int((labels >= 0).sum()), int((labels < 0).sum())
            say(f"{objects:,} regions of seen classes, {around:,} of background")
            _check(labels, trained, say)
            real = _objects(arrays, labels, settings, device)
            maker = _synthesizer(trained, real, text, settings, folder)
            step, whole = _train(maker, folder, stop)
            if not whole:
                return SynthesisResult(None, objects, around, step, False)
            background = _backgrounds(arrays, labels, settings, device)
            layer = last_layer(maker, background, settings)
            classes = (*trained.detector.classes, *names)
            state = {f"classifier.{key}": value for key, value in layer.state_dict().items()}
            facts = {**trained.detector.facts, "novel": list(names)}
            write_extended(trained, classes, facts, state, folder.weights_path("last"))
            return SynthesisResult(folder.weights_path("last"), objects, around, step, True)
    finally:
        folder.close()


# -- real features -----------------------------------------------------------------------------------------------------


def _columns(trained: Trained, store: RegionStore | None, settings: VLDUSSettings) -> Columns:
    return columns(trained.settings.rcnn.box_features, None if store is None else store.width, settings.precision)


def _features(
    trained: Trained,
    out: Path,
    frames: Sequence[Frame],
    store: RegionStore | None,
    settings: VLDUSSettings,
    batch: int,
    workers: int,
    stop: StopRequest,
) -> GrowingArrays | None:
    """Region features of all frames; None where it was stopped."""
    numbers = {name: number for number, name in enumerate(trained.detector.classes)}
    paths = [frame.path for frame in frames if frame.path is not None]

    def choose(number: int, own: NDArray[np.float64]) -> Chosen:
        boxes, labels, weights = frame_arrays(upright(frames[number]), numbers)
        proposals, clip = (own, None) if store is None else store.regions(paths[number])
        chance = step_generator(settings.seed, number, _REGIONS)
        domain = domain_of(frames[number])
        return seen_regions(proposals, boxes, labels, weights, settings, chance, clip, domain)

    kept = _columns(trained, store, settings)
    # What they are of is the run folder's to know.
    arrays = GrowingArrays(out / "features", kept, {"images": len(paths)})
    took = take_features(
        trained.detector, paths, choose, arrays, propose=store is None, batch=batch, workers=workers, stop=stop
    )
    return None if took is None else arrays


def _check(labels: NDArray[np.int32], trained: Trained, say: Callable[[str], None]) -> None:
    classes = trained.detector.classes
    lacking = [name for number, name in enumerate(classes) if not (labels == number).any()]
    if len(lacking) == len(classes):
        raise DatasetError(
            "no proposal reaches an object of a seen class: train the detector longer, or take a new --out and a lower "
            "--set foreground=..."
        )
    if not (labels < 0).any():
        raise DatasetError("no proposal shows background: take a new --out and a higher --set background=...")
    if lacking:
        say(f"no region of {', '.join(lacking)}: their features are made without having seen one")


def _objects(arrays: GrowingArrays, labels: NDArray[np.int32], settings: VLDUSSettings, device: str) -> RealFeatures:
    rows = _rows(np.flatnonzero(labels >= 0), settings.features, settings.seed, _OBJECTS)

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays.read(name)[rows])).to(device)

    clip = column("clip") if "clip" in arrays.columns else None
    domains = column("domain").long() if settings.domains else None
    return RealFeatures(column("features"), column("label").long(), clip, domains)


def _backgrounds(arrays: GrowingArrays, labels: NDArray[np.int32], settings: VLDUSSettings, device: str) -> Tensor:
    most = math.ceil(settings.background_share * settings.synthetic)
    rows = _rows(np.flatnonzero(labels < 0), most, settings.seed, _BACKGROUNDS)
    return torch.from_numpy(np.array(arrays.read("features")[rows])).to(device)


def _rows(rows: NDArray[np.intp], most: int, seed: int, stream: int) -> NDArray[np.intp]:
    """At most so many, drawn by chance, in their order: a mapped file is read forwards."""
    chosen: NDArray[np.intp] = rows[draw(len(rows), most, step_generator(seed, 0, stream)).numpy()]
    return chosen


# -- training ----------------------------------------------------------------------------------------------------------


def _synthesizer(
    trained: Trained, real: RealFeatures, text: Tensor, settings: VLDUSSettings, folder: RunFolder
) -> Synthesizer:
    """With the unseen classifier trained, unless a state brings it along."""
    seen = len(trained.detector.classes)
    assert isinstance(trained.detector.head, SoftmaxHead)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        unseen = UnseenClassifier(real.features.shape[1], text.shape[1]).to(text.device)
    if folder.latest_state() is None:
        losses = train_classifier(
            unseen, real.features, real.labels, text[:seen], epochs=settings.unseen_epochs,
            batch=settings.unseen_batch, rate=settings.unseen_learning_rate, seed=settings.seed, stream=_UNSEEN,
            name="unseen",
        )  # fmt: skip
        folder.log(f"unseen classifier: cross-entropy {losses[0]:.3f} to {losses[-1]:.3f} on seen classes")
    return Synthesizer(real, text, seen, trained.detector.head.classifier, unseen, settings)


def _train(maker: Synthesizer, folder: RunFolder, stop: StopRequest) -> tuple[int, bool]:
    """Train from the newest state on: the step reached, and whether it was the last one."""
    settings, means = maker.settings, LossMeans()
    total = settings.epochs * math.ceil(len(maker.real.features) / settings.batch)
    done = folder.latest_state() or 0
    if done:
        state = folder.load_state(done, 0)
        maker.load(state)
        means.load(state["means"], maker.text.device)
    folder.cut_metrics(done)
    with progress_bar("synthesizer", total, done, "steps") as show:
        while done < total:
            means.add(maker.step(done))
            done += 1
            last = done == total
            if done % settings.log_every == 0 or last:
                _check_finite(maker, means, done, folder)
                line = {name: (value / (done - means.since)).item() for name, value in sorted(means.sums.items())}
                folder.append_metrics(done, line)
                means.sums, means.spoilt, means.since = {}, {}, done
                show(done, f"unseen {line['unseen']:.2f}")
            if done % settings.save_every == 0 or last or stop.requested:
                _check_finite(maker, means, done, folder)
                folder.save_state(done, 0, maker.state() | {"means": means.state()})
                folder.commit_state(done)
            if stop.requested and not last:
                return done, False
    return done, True


def _check_finite(maker: Synthesizer, means: LossMeans, done: int, folder: RunFolder) -> None:
    """Stop where a loss or a weight became NaN or infinite, before it is saved; see :func:`halt`."""
    networks = {"generator": maker.generator, "critic": maker.critic}
    advice = "a new --out and a lower --set learning_rate=..."
    halt(folder, means.not_finite(done), spoilt_weights(networks), done, advice)


def last_layer(maker: Synthesizer, background: Tensor, settings: VLDUSSettings) -> nn.Linear:
    """A softmax layer over all classes and background (last), trained on made features and real background ones.

    Args:
        maker: trained.
        background: (B, F) real features of background.
    """
    features, labels = maker.synthesize(settings.synthetic)
    count = len(maker.text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layer = nn.Linear(features.shape[1], count + 1).to(features.device)
    train_classifier(
        layer,
        torch.cat((features, background.float())),
        torch.cat((labels, labels.new_full((len(background),), count))),
        epochs=settings.classifier_epochs,
        batch=settings.classifier_batch,
        rate=settings.classifier_learning_rate,
        seed=settings.seed,
        stream=_LAST,
        name="classifier",
    )
    return layer
