"""What the probe and the synthesizer share: a trained two-stage detector in, one with more classes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from nightaug import __version__
from nightaug.config import build
from nightaug.data.classes import canonical_class
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts, write_detector
from nightaug.detect.detectors import build_detector
from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.detect.openvocab.regions import Embed, RegionStore
from nightaug.detect.openvocab.vocabulary import had_boxes
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError
from nightaug.runs import file_sha256


class Trained(NamedTuple):
    """A detector, the settings and training step it was saved with, its weight file, and that file's SHA-256."""

    detector: RCNNDetector
    settings: DetectorSettings
    step: int
    file: Path
    sha: str


def open_trained(run: Path, which: str | None, device: str) -> Trained:
    """Load a two-stage detector.

    Raises:
        ConfigError: a detector of another kind.
        CheckpointError: missing or damaged.
    """
    file = find_detector(run, which)
    facts = read_facts(file)
    detector = load_detector(file, device)
    if not isinstance(detector, RCNNDetector):
        raise ConfigError(f"{file} is a {detector.name}: classes without boxes need a faster-rcnn-resnet18|50|101")
    settings = build(DetectorSettings, facts["settings"])
    return Trained(detector, settings, int(facts.get("step", 0)), file, file_sha256(file))


def new_classes(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Canonical names of classes to add.

    Raises:
        ConfigError: none, one twice, or one that is known already.
    """
    wanted = [canonical_class(name) for name in names]
    if not wanted:
        raise ConfigError("name at least one class to add")
    double = sorted({name for name in wanted if wanted.count(name) > 1})
    if double:
        raise ConfigError(f"named more than once: {', '.join(double)}")
    there = [name for name in wanted if name in known]
    if there:
        raise ConfigError(
            f"the detector was trained on {', '.join(there)} already (it knows {', '.join(known)}); leave that out"
        )
    return tuple(wanted)


def embed_names(embed: Embed, names: Sequence[str], store: RegionStore | None, device: str) -> Tensor:
    """Text embeddings (K, E) fp32 of class names, unit length.

    Raises:
        ConfigError: the store was made with another CLIP.
    """
    text = F.normalize(embed(names).detach().float(), dim=1).to(device)
    if store is not None and store.width != text.shape[1]:
        raise ConfigError(
            f"the embeddings are {store.width} wide, this CLIP's text {text.shape[1]}: use the CLIP they were made with"
        )
    return text


#: What tells a store from another one: of which images, proposals and CLIP it is, and which of the proposals.
_IDENTITY = ("images_sha", "proposals_sha", "clip_sha", "stage", "most", "min_score", "nms", "min_side")


def store_facts(store: RegionStore | None) -> dict[str, str]:
    """What tells a store from another one, as far as it says so."""
    facts = {} if store is None else store.facts
    return {key: str(facts[key]) for key in _IDENTITY if key in facts}


def check_held_out(store: RegionStore | None, unseen: Sequence[str], say: Callable[[str], None]) -> None:
    """Say where boxes of unseen classes have had a hand in the proposals: right for a ceiling, but not zero-shot."""
    if store is None or "boxes_of" not in store.facts:
        return
    if shown := had_boxes(store.facts["boxes_of"], unseen):
        say(f"the embedded proposals were made with boxes of {', '.join(shown)}, too, which are to be unseen")


def text_sha(text: Tensor) -> str:
    """SHA-256 of text embeddings: which CLIP and prompts said what."""
    return hashlib.sha256(text.cpu().half().numpy().tobytes()).hexdigest()


def write_extended(
    trained: Trained, classes: tuple[str, ...], facts: Mapping[str, Any], head: Mapping[str, Tensor], out: Path
) -> None:
    """Write a detector that is the trained one but for its classes and its region head.

    Args:
        classes: all of them; those it had come first.
        facts: of the new one.
        head: the state of its region head.
        out: weight file.
    """
    settings = trained.settings.model_copy(update={"classes": classes})
    detector = build_detector(settings, classes, pretrained=False, facts=facts)
    state = {key: value.cpu() for key, value in trained.detector.state_dict().items() if not key.startswith("head.")}
    detector.load_state_dict(state | {f"head.{key}": value.cpu() for key, value in head.items()})
    write_detector(out, detector, settings, trained.step, __version__)
