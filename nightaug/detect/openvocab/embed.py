"""``nightaug openvocab embed`` as one function: proposals of all training images, and CLIP's view of each.

normalise(CLIP(crop) + CLIP(crop grown 1.5 times)), fp16, as ViLD and LP-OVOD learn from (METHODS 3 and 4.2).
"""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nightaug import __version__
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.region_cache import RegionCache, Regions
from nightaug.data.classes import canonical_class
from nightaug.data.formats import Dataset, open_dataset
from nightaug.data.formats.base import shown
from nightaug.data.frames import Frame
from nightaug.data.results import writing
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts
from nightaug.detect.inference import decoders
from nightaug.detect.openvocab.proposals import Boxes, ProposalDetector, collect, detected_boxes, labelled_boxes
from nightaug.detect.openvocab.store import (
    REGIONS,
    ProposalStore,
    check_folder,
    read_state,
    write_state,
)
from nightaug.detect.openvocab.vocabulary import lasting_clip, taught
from nightaug.detect.sources import known_classes, load_source, load_target, parse_source
from nightaug.devices import check_device, default_device
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.runs import StopRequest, file_sha256, free_space
from nightaug.training import duration

#: ``--proposals``: the labelled boxes in place of a detector's.
LABELS = "labels"
#: How far the second crop is grown around the box (METHODS 3).
CONTEXT = 1.5
#: Bytes of an embedded box beside its embedding: its corners twice, its objectness, its row.
_BOX_BYTES = 40
#: Crops in the timed pass of an estimate.
_TIMED_CROPS = 64


class _Job(NamedTuple):
    """What is embedded, decided before any work."""

    out: Path
    frames: list[Frame]
    names: list[str]
    detector: ProposalDetector | None
    clip: Clip
    classes: frozenset[str] | None
    most: int
    min_side: float
    batch: int
    crops: int
    device: str
    precision: str
    workers: int

    def look(self, numbers: Sequence[int]) -> Iterator[Boxes]:
        """The proposals of some images."""
        if self.detector is None:
            return (labelled_boxes(self.frames[number], self.min_side, self.classes) for number in numbers)
        paths = [_path(self.frames[number]) for number in numbers]
        return detected_boxes(
            self.detector, paths, self.min_side,
            batch=self.batch, device=self.device, precision=self.precision, workers=self.workers,
        )  # fmt: skip


def run_embed(
    dataset: Path,
    out: Path,
    *,
    proposals: str,
    clip: str,
    data: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    most: int = 300,
    min_score: float = 0.0,
    overlap: float = 0.7,
    min_side: float = 4.0,
    batch: int = 8,
    crops: int = 256,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ProposalStore | None:
    """Make an embedding store, or go on with it; None after a dry run.

    Can be killed and called again, and by several processes at once (one a GPU), which divide the work.

    Args:
        dataset: what ``dataset`` means in ``data``.
        out: the store's folder.
        proposals: a train-detector or openvocab run (or weight file), or ``labels``.
        clip: MODEL:TAG, MODEL:FILE, local-dir:FOLDER, or a tiny model's folder.
        data: NAME:SPLIT:DOMAIN each; nothing means dataset:train:all. Images without labels serve, too, unless the
            labels are the proposals.
        classes: with ``labels``, boxes of these classes only: an unseen class' boxes would tell where it is.
        most: best proposals an image. min_score: least objectness, in [0, 1].
        overlap: of two proposals with a larger IoU the weaker one goes. min_side: least width and height, pixels.
        batch: images, and ``crops`` crops, in one forward pass.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        workers: processes (and threads) that decode images.

    Raises:
        ConfigError: wrong options, or ``out`` holds something else.
        DatasetError: no images.
        CheckpointError: no usable detector or CLIP.
        Interrupted: Ctrl-C; what is done is kept.
        NightaugError: the disk is full, or the device's memory.
    """
    if most < 1 or not 0 <= min_score <= 1 or not 0 < overlap <= 1 or min_side < 1:
        raise ConfigError("expected --most and --min-side of 1 or more, --min-score from 0 to 1, --overlap over 0 to 1")
    if classes is not None and proposals != LABELS:
        raise ConfigError("--classes is for --proposals labels; a detector's proposals have no class")
    device = device or default_device()
    check_device(device)
    opened = open_dataset(dataset)
    wanted = None if classes is None else frozenset(map(canonical_class, classes))
    frames = _frames(opened, data, proposals == LABELS, wanted)
    root = Path(os.path.abspath(opened.root))
    names = [os.path.relpath(os.path.abspath(_path(frame)), root) for frame in frames]
    detector: ProposalDetector | None = None
    source: dict[str, Any] = {
        "proposals": LABELS, "proposals_sha": LABELS, "stage": LABELS,
        "boxes_of": list(known_classes(frames)) if wanted is None else sorted(wanted),
    }  # fmt: skip
    if proposals != LABELS:
        weights = find_detector(Path(proposals))
        detector = ProposalDetector(load_detector(weights, device), min_score, overlap, most)
        boxed = taught(read_facts(weights))
        source = {
            "proposals": proposals, "proposals_sha": file_sha256(weights), "stage": detector.stage,
            "boxes_of": None if boxed is None else list(boxed),
        }  # fmt: skip
    model = load_clip(clip, device, precision)
    facts: dict[str, Any] = {
        "nightaug": __version__, "root": str(root), "data": list(data) or ["dataset"], "images": len(frames),
        "images_sha": _hash(names, frames if detector is None else [], wanted), **source,
        "most": most, "min_score": min_score, "nms": overlap, "min_side": min_side,
        "clip": lasting_clip(clip), "clip_name": model.name, "clip_sha": model.sha, "width": model.width,
    }  # fmt: skip
    threads = decoders(workers)
    job = _Job(
        out, frames, names, detector, model, wanted, most, min_side, batch, crops, device, precision, threads
    )  # fmt: skip
    before = check_folder(out, facts)
    finished = before is not None and bool(before.get("finished"))
    if before is not None and finished:
        say(f"{shown(out)} is finished: {before['boxes']:,} regions of {before['images']:,} images")
        if before.get("root") == facts["root"]:
            return None if dry_run else ProposalStore(out)
        say(f"the images have moved from {before.get('root')} to {root}: their places are noted anew")
    need = 0 if finished else _announce(job, facts, say)
    if dry_run:
        return None
    if need > (free := free_space(out)):
        raise NightaugError(
            f"{shown(out)}: up to {need / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free; a lower --most, or "
            "another --out"
        )
    with writing(shown(out), "what is done is kept, run again to go on"), StopRequest().listen() as stop:
        return _work(job, facts, stop, say)


def _work(job: _Job, facts: dict[str, Any], stop: StopRequest, say: Callable[[str], None]) -> ProposalStore:
    out = job.out
    cache = _cache(job)
    facts = {**facts, "cache": cache.path.name}
    if read_state(out) is None:
        write_state(out, facts, finished=False)
    began = time.monotonic()
    done = collect(out, job.names, job.look, stop)
    if done.unreadable:
        say(f"{done.unreadable:,} images could not be read; they stay, without proposals")
    middle = time.monotonic()
    if job.detector is not None:
        job.detector.to("cpu")  # CLIP gets its memory
    store = ProposalStore(out, root=facts["root"], unfinished=True)
    regions = [Regions(path, store.proposals(path)[0]) for path in map(_path, job.frames)]
    report = cache.fill(regions, job.clip, batch=job.crops, workers=max(job.workers, 1), stop=stop, say=say)
    embedded = report.embedded + report.small
    measured = {
        "proposal_seconds_an_image": round((middle - began) / done.images, 4) if done.images else None,
        "embedding_seconds_a_box": round((time.monotonic() - middle) / embedded, 6) if embedded else None,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated(job.device) / 1e9, 3) if _on_gpu(job) else None,
    }
    others = (read_state(out) or {}).get("measured", {})  # a process that came last may have had nothing to do
    measured = {key: others.get(key) if value is None else value for key, value in measured.items()}
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    write_state(out, {**facts, "boxes": report.boxes, "bytes": size, "measured": measured}, finished=True)
    say(
        f"{report.boxes:,} regions of {report.images:,} images in {shown(out)}, {size / 1e6:,.1f} MB "
        f"({_rate(measured)}; peak {measured['peak_memory_gb']:.1f} GB in memory)"
    )
    return ProposalStore(out)


def _on_gpu(job: _Job) -> bool:
    return torch.device(job.device).type == "cuda"


def _rate(measured: dict[str, Any]) -> str:
    parts = []
    if measured["proposal_seconds_an_image"] is not None:
        parts.append(f"proposals {measured['proposal_seconds_an_image']:.3g} s an image")
    if measured["embedding_seconds_a_box"] is not None:
        parts.append(f"CLIP {1e3 * measured['embedding_seconds_a_box']:.2g} ms a region")
    return ", ".join(parts) or "all was there"


def _cache(job: _Job) -> RegionCache:
    # The proposals have the size that is wanted; the cache's own limit would only drop what rounding made smaller.
    (job.out / REGIONS).mkdir(parents=True, exist_ok=True)
    return RegionCache.open(job.out / REGIONS, job.clip, CONTEXT, min_side=1.0)


# -- what, and how much ----------------------------------------------------------------------------------------------


def _path(frame: Frame) -> Path:
    assert frame.path is not None, f"{frame.name}: the frame has no image file"
    return frame.path


def _frames(opened: Dataset, data: Sequence[str], labels: bool, classes: frozenset[str] | None) -> list[Frame]:
    """The images of all specs, each once, in order of their places."""
    found: dict[str, Frame] = {}
    for text in data or ["dataset"]:
        spec = parse_source(text)
        frames = load_source(spec, opened).frames if labels else load_target(spec, opened, "--data")
        for frame in frames:
            found.setdefault(os.path.abspath(_path(frame)), frame)
    frames = [found[place] for place in sorted(found)]
    if classes is not None:
        there = known_classes(frames)
        if wrong := sorted(classes - set(there)):
            raise DatasetError(f"--classes {', '.join(wrong)}: not in the labels (there are: {', '.join(there)})")
    return frames


def _hash(names: Sequence[str], labelled: Sequence[Frame], classes: frozenset[str] | None) -> str:
    """Of the images, and of their boxes where the labels are the proposals."""
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape"))
    for frame in labelled:
        digest.update(repr([(box.xyxy, box.category, box.crowd) for box in frame.boxes]).encode())
    digest.update(repr(classes and sorted(classes)).encode())
    return digest.hexdigest()


def _announce(job: _Job, facts: dict[str, Any], say: Callable[[str], None]) -> int:
    """Say what will be done, how long it takes and how large it gets; the bytes at most."""
    frames, width = job.frames, job.clip.width
    each = width * 2 + _BOX_BYTES
    if job.detector is None:
        some = [len(labelled_boxes(frame, job.min_side, job.classes).boxes) for frame in frames[:50]]
        boxes = sum(len(frame.boxes) for frame in frames)
        mean, look = sum(some) / len(some), 0.0
        of = "labelled boxes" + ("" if job.classes is None else f" of {', '.join(sorted(job.classes))}")
        if job.classes is None:
            say("--proposals labels: the boxes of all classes, also of those that shall be unseen (see --classes)")
    else:
        boxes = len(frames) * job.most
        few = [_path(frame) for frame in frames[: job.batch]]
        options: dict[str, Any] = {"batch": job.batch, "device": job.device, "precision": job.precision}
        for _ in range(2):  # the first one pays for set-up
            began = time.monotonic()
            some = [len(found.boxes) for found in detected_boxes(job.detector, few, job.min_side, **options)]
            look = (time.monotonic() - began) / len(few)
        mean = sum(some) / len(some)
        of = f"{job.detector.stage} of {facts['proposals']}, at most {job.most} an image"
    crops = torch.rand(_TIMED_CROPS, 3, *job.clip.size, device=job.device)
    for _ in range(2):
        began = time.monotonic()
        job.clip.embed_images(crops).sum().item()
        crop = (time.monotonic() - began) / _TIMED_CROPS
    total = len(frames) * (look + mean * 2 * crop)
    say(f"{len(frames):,} images, {of}; CLIP {facts['clip_name']} on {job.device}, two crops a box")
    say(
        f"estimate: about {mean:.0f} boxes an image, {duration(total)}, {len(frames) * mean * each / 1e6:,.1f} MB on "
        f"disk (at most {boxes * each / 1e6:,.1f} MB)"
    )
    return boxes * each
