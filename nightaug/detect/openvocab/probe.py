"""Novel classes by linear probing (LP-OVOD, METHODS section 4.4 and 4.5).

The proposals that look most like a class name to CLIP become its pseudo labels; then a linear classifier over the
frozen detector's region features is trained on them, and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightaug import __version__
from nightaug.boxes import iou
from nightaug.config import Settings
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.openvocab.extend import (
    Trained,
    embed_names,
    new_classes,
    open_trained,
    store_facts,
    text_sha,
    write_extended,
)
from nightaug.detect.openvocab.features import Chosen, GrowingArrays, columns, take_features
from nightaug.detect.openvocab.lp_ovod import LPOVODHead, focal_loss, new_classifier
from nightaug.detect.openvocab.regions import Embed, RegionStore
from nightaug.detect.openvocab.retrieval import PseudoLabel, best_proposals
from nightaug.detect.openvocab.settings import ProbeSettings
from nightaug.devices import default_device
from nightaug.errors import CheckpointError, ConfigError, DatasetError
from nightaug.images import atomic_write_text
from nightaug.runs import RunFolder, StopRequest, progress_bar
from nightaug.training import halt, spoilt_weights, training_errors

#: What in the run folder says which proposals stand for which class.
LABELS = "pseudo_labels.json"
#: Where chance goes: negatives of an image, order of an epoch.
_NEGATIVES, _ORDER = 1, 2


class ProbeResult(NamedTuple):
    """``file``: the detector's weight file, with base and novel classes (None if stopped before); ``labels``: pseudo
    labels of each novel class; ``positives`` and ``negatives``: regions trained on; ``finished``: False after a Ctrl-C
    (--resume goes on)."""

    file: Path | None
    labels: dict[str, int]
    positives: int
    negatives: int
    finished: bool


class ProbeRecord(Settings):
    """What a probe's ``config.yaml`` says: resumed with anything else it would be another run."""

    detector: str
    detector_sha256: str
    store: dict[str, str]
    novel: tuple[str, ...]
    text_sha256: str
    probe: ProbeSettings


def run_probe(
    run: Path,
    out: Path,
    store: RegionStore,
    novel: Sequence[str],
    embed: Embed,
    settings: ProbeSettings | None = None,
    *,
    resume: bool = False,
    which: str | None = None,
    batch: int = 8,
    workers: int = 0,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ProbeResult:
    """Teach novel classes to a trained LP-OVOD detector; writes a run folder whose last.safetensors is a detector.

    Args:
        run: run folder or weight file of a detector with ``rcnn.head=lp-ovod`` (from ``openvocab train``).
        out: run folder to write; must not be ``run``.
        store: embeddings of the training images' proposals.
        novel: class names to add, aliases allowed.
        embed: text embeddings of class names, of the same CLIP as the store (``Prompts(clip).embed``).
        resume: go on with what ``out`` holds.
        which: ``best`` or ``last`` of ``run``.
        batch, workers: images a forward pass, and processes that decode them, while features are taken.
        device: None: a GPU where there is one.
        say: takes lines for people.

    Raises:
        ConfigError: not an LP-OVOD run, a novel class is known already, the store is of another CLIP, or ``out`` cannot
            be used.
        DatasetError: a class has no proposal that could be its pseudo label, or no image can be read any more.
        CheckpointError: weights or state are missing or damaged.
    """
    settings = settings or ProbeSettings()
    device = device or default_device()
    trained = open_trained(run, which, device)
    head = trained.detector.head
    if not isinstance(head, LPOVODHead):
        raise ConfigError(f"{trained.file} has head {trained.settings.rcnn.head}: probing needs an lp-ovod run")
    if head.probe is not None:
        raise ConfigError(f"{trained.file} was probed already: probe its base run, with all the novel classes")
    names = new_classes(novel, trained.detector.classes)
    text = embed_names(embed, names, store, device)
    if text.shape[1] != head.space.text.shape[1]:
        raise ConfigError(
            f"this CLIP is {text.shape[1]} wide, the detector's {head.space.text.shape[1]}: use the one it learned from"
        )
    learned, now = trained.detector.facts.get("clip_sha"), store.facts.get("clip_sha")
    if learned and now and learned != now:
        raise ConfigError(f"the store was made with another CLIP than {trained.file} learned from; embed with that one")
    record = ProbeRecord(
        detector=trained.file.name,
        detector_sha256=trained.sha,
        store=store_facts(store),
        novel=names,
        text_sha256=text_sha(text),
        probe=settings,
    )
    folder = RunFolder(out)
    folder.start(record, resume, ("probe.save_every",), say)
    try:
        with training_errors(out, "a smaller --batch"), StopRequest().listen() as stop:
            known = _read_labels(out / LABELS, names) if folder.config_path.exists() else None
            # A search that finds nothing claims no folder: the same command with another --set may follow.
            labels = known or _search(store, names, text, settings)
            folder.write_settings(record)
            folder.log(f"nightaug {__version__}: probe of {trained.file} for {', '.join(names)}")
            if known is None:
                _write_labels(out / LABELS, labels)
            counts = {name: len(found) for name, found in labels.items()}
            say("pseudo labels: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
            arrays = _features(trained, out, store, names, labels, settings, batch, workers, stop)
            if arrays is None:
                return ProbeResult(None, counts, 0, 0, False)
            label = np.asarray(arrays.read("label"))
            positives = int((label >= 0).sum())
            say(f"{positives:,} regions of novel classes, {len(label) - positives:,} of none")
            lost = [name for number, name in enumerate(names) if not (label == number).any()]
            if lost:
                raise DatasetError(f"no region of {', '.join(lost)} is left: the images of its proposals are gone")
            probe = train_probe(arrays.read("features"), label, len(names), trained, settings, folder, stop)
            if probe is not None:
                _write(trained, names, text, probe, folder.weights_path("last"))
            file = None if probe is None else folder.weights_path("last")
            return ProbeResult(file, counts, positives, len(label) - positives, file is not None)
    finally:
        folder.close()


def _read_labels(file: Path, names: Sequence[str]) -> dict[str, list[PseudoLabel]] | None:
    """What an earlier search found; None where there was none."""
    if not file.exists():
        return None
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {
            name: [PseudoLabel(Path(r["image"]), tuple(r["box"]), r["objectness"], r["cosine"]) for r in rows[name]]
            for name in names
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); remove it to search again") from error


def _search(
    store: RegionStore, names: Sequence[str], text: Tensor, settings: ProbeSettings
) -> dict[str, list[PseudoLabel]]:
    found = best_proposals(
        store.scan(), text.cpu().numpy(), settings.proposals, settings.objectness, settings.approximate_over
    )
    labels = dict(zip(names, found, strict=True))
    empty = [name for name, own in labels.items() if not own]
    if empty:
        raise DatasetError(
            f"no proposal of objectness {settings.objectness:g} or more for {', '.join(empty)}; lower "
            "--set objectness=..., or embed more proposals"
        )
    return labels


def _write_labels(file: Path, labels: Mapping[str, Sequence[PseudoLabel]]) -> None:
    rows = {
        name: [
            {"image": str(one.path), "box": list(one.box), "objectness": one.objectness, "cosine": one.cosine}
            for one in own
        ]
        for name, own in labels.items()
    }
    atomic_write_text(file, json.dumps(rows, indent=1) + "\n")


def assign_proposals(
    proposals: NDArray[np.floating[Any]],
    labels: Sequence[tuple[int, PseudoLabel]],
    settings: ProbeSettings,
    generator: torch.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What one image is trained on: proposals that show a pseudo label, and some that show none.

    Args:
        proposals: (Q, 4) xyxy in pixels of the original.
        labels: class number and pseudo label, those of this image.
        settings: thresholds, and most negatives a positive.
        generator: of the draw of negatives.

    Returns:
        Boxes (P, 4) and class numbers (P,), -1 for none; positives first.
    """
    boxes = np.asarray(proposals, np.float64).reshape(-1, 4)
    # Where one box stands for two classes, it is of the one that CLIP is surer of: that comes first, as argmax wants.
    ranked = sorted(labels, key=lambda pair: -pair[1].cosine)
    overlap = iou(boxes, [label.box for _, label in ranked])
    reached = overlap.max(axis=1, initial=0)
    positive = np.flatnonzero(reached >= settings.positive)
    numbers = np.array([number for number, _ in ranked], np.int64)
    shown = numbers[overlap[positive].argmax(axis=1)] if ranked else np.zeros(0, np.int64)
    others = torch.from_numpy(np.flatnonzero(reached < settings.negative))
    most = int(settings.negatives * len(positive))
    kept = others[torch.randperm(len(others), generator=generator)[:most].sort().values].numpy()
    return boxes[np.concatenate((positive, kept))], np.concatenate((shown, np.full(len(kept), -1)))


def _features(
    trained: Trained,
    out: Path,
    store: RegionStore,
    names: Sequence[str],
    labels: Mapping[str, Sequence[PseudoLabel]],
    settings: ProbeSettings,
    batch: int,
    workers: int,
    stop: StopRequest,
) -> GrowingArrays | None:
    """Region features of the images that have pseudo labels; None where it was stopped."""
    by_image: dict[Path, list[tuple[int, PseudoLabel]]] = {}
    for number, name in enumerate(names):
        for label in labels[name]:
            by_image.setdefault(label.path, []).append((number, label))
    paths = sorted(by_image)

    def choose(number: int, own: NDArray[np.float64]) -> Chosen:
        proposals, _ = store.regions(paths[number])
        chance = step_generator(settings.seed, number, _NEGATIVES)
        return Chosen(*assign_proposals(proposals, by_image[paths[number]], settings, chance))

    width = trained.settings.rcnn.box_features
    arrays = GrowingArrays(out / "features", columns(width, None), {"images": [str(path) for path in paths]})
    took = take_features(
        trained.detector, paths, choose, arrays, propose=False, batch=batch, workers=workers, stop=stop
    )
    return None if took is None else arrays


def train_probe(
    features: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    classes: int,
    trained: Trained,
    settings: ProbeSettings,
    folder: RunFolder,
    stop: StopRequest,
) -> torch.nn.Linear | None:
    """Train the linear classifier, from the newest state of the run folder on; None where it was stopped.

    The same focal loss as the base classes', so that the scores of both mean the same.

    Args:
        features: (P, F), may be mapped.
        labels: (P,) novel class numbers, -1 for none of them.
        classes: how many novel ones.
        trained: the detector; gives loss settings and device.
    """
    loss_settings = trained.settings.rcnn.lp_ovod
    device = next(trained.detector.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        probe = new_classifier(features.shape[1], classes, loss_settings.prior).to(device)
    optimizer = torch.optim.Adam(probe.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    done = folder.latest_state() or 0
    if done:
        state = folder.load_state(done, 0)
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
    folder.cut_metrics(done)
    with progress_bar("probe", settings.epochs, done, "epochs") as show:
        for epoch in range(done, settings.epochs):
            order = torch.randperm(len(features), generator=step_generator(settings.seed, epoch, _ORDER)).numpy()
            total = torch.zeros((), device=device)
            for first in range(0, len(order), settings.batch):
                chosen = np.sort(order[first : first + settings.batch])  # a mapped file is read forwards
                rows = torch.from_numpy(np.asarray(features[chosen], np.float32)).to(device)
                kind = torch.from_numpy(np.asarray(labels[chosen], np.int64)).to(device)
                weights = torch.ones(len(kind), device=device)
                loss = focal_loss(probe(rows), kind, weights, loss_settings.alpha, loss_settings.gamma)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach() * len(chosen)
            mean = total.item() / len(order)
            bad = {} if math.isfinite(mean) else {"loss": epoch + 1}
            advice = "a new --out and a lower --set learning_rate=..."
            halt(folder, bad, spoilt_weights({"probe": probe}), epoch + 1, advice, "epoch")
            folder.append_metrics(epoch + 1, {"loss": mean})
            show(epoch + 1, f"loss {mean:.4f}")
            if (epoch + 1) % settings.save_every == 0 or epoch + 1 == settings.epochs or stop.requested:
                folder.save_state(epoch + 1, 0, {"probe": probe.state_dict(), "optimizer": optimizer.state_dict()})
                folder.commit_state(epoch + 1)
            if stop.requested and epoch + 1 < settings.epochs:
                return None
    return probe


def _write(trained: Trained, names: Sequence[str], text: Tensor, probe: torch.nn.Linear, out: Path) -> None:
    head = dict(trained.detector.head.state_dict())
    head["space.text"] = torch.cat((head["space.text"], text.to(head["space.text"])))
    head |= {f"probe.{key}": value for key, value in probe.state_dict().items()}
    facts = {**trained.detector.facts, "novel": list(names)}
    write_extended(trained, (*trained.detector.classes, *names), facts, head, out)
