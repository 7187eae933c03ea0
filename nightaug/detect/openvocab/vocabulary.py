"""The classes of a trained detector, changed afterwards: other names for one that reads text, fewer for any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nightaug import __version__
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.prompts import Prompts
from nightaug.config import build, lasting
from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts, write_detector
from nightaug.detect.detectors import Detector
from nightaug.detect.detectors.region_head import RegionHead, SoftmaxHead
from nightaug.detect.openvocab.lp_ovod import LPOVODHead
from nightaug.detect.openvocab.vild import ViLDHead
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError

#: In the facts of a weight file: a trained detector that was told other classes.
_RENAMED = "renamed"


def lasting_clip(spec: str) -> str:
    """A CLIP's spec that holds in other working folders, too."""
    model, colon, rest = spec.partition(":")
    return lasting(spec) if Path(spec).exists() or not colon else f"{model}:{lasting(rest)}"


def load_text(facts: Mapping[str, Any], spec: str | None = None, device: str | torch.device = "cpu") -> Clip:
    """The CLIP a detector or a store was made with.

    Args:
        facts: of the detector or the store: ``clip``, its MODEL:TAG or path then, and ``clip_sha``.
        spec: where it is now, if elsewhere.

    Raises:
        ConfigError: nobody says which CLIP, or it is another one.
        CheckpointError: it is no longer there.
    """
    known = spec or facts.get("clip")
    if not known:
        raise ConfigError("nothing says which CLIP reads the class names: add --clip MODEL:TAG")
    clip = load_clip(str(known), device, "fp32")
    if facts.get("clip_sha") not in (None, clip.sha):
        raise ConfigError(f"--clip {known}: another CLIP than the one it was trained with ({facts.get('clip')})")
    return clip


def is_class_agnostic(facts: Mapping[str, Any]) -> bool:
    """Whether a weight file's detector finds objects and no classes (``openvocab train --method proposals``).

    Args:
        facts: of :func:`~nightaug.detect.checkpoint.read_facts`.
    """
    return bool(facts["settings"].get("rcnn", {}).get("class_agnostic"))


def taught(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes whose boxes a detector was trained on; None: all that were labelled, whichever those were.

    Args:
        facts: of its weight file (:func:`~nightaug.detect.checkpoint.read_facts`).
    """
    settings: Mapping[str, Any] = facts["settings"]
    names = settings.get("classes")
    if names is None:
        if is_class_agnostic(facts):
            return None
        names = facts["classes"]
    known = tuple(canonical_class(str(name)) for name in names)
    novel = {canonical_class(str(name)) for name in (facts.get("facts") or {}).get("novel", ())}
    return tuple(name for name in known if name not in novel)


def had_boxes(boxed: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """Those names whose boxes a training has seen; ``boxed`` as :func:`taught` gives it."""
    return [name for name in names if boxed is None or name in boxed]


def reads_text(detector: Detector) -> bool:
    """Whether the detector finds any class by its name (ViLD)."""
    return isinstance(getattr(detector, "head", None), ViLDHead)


def check_reads_text(detector: Detector) -> None:
    """Refuse a detector that knows only what it was trained on.

    Raises:
        ConfigError: naming what it knows.
    """
    if not reads_text(detector):
        raise ConfigError(
            f"this detector knows {', '.join(detector.classes)} and no other classes: teach it new ones with nightaug "
            "openvocab probe (lp-ovod) or synthesize (vldus), or train one with --method vild"
        )


def name_classes(detector: Detector, names: Sequence[str], clip: Clip) -> None:
    """Make a detector that reads text look for these classes, and no others.

    Raises:
        ConfigError: it does not read text, or ``clip`` is of another width.
    """
    check_reads_text(detector)
    set_text(detector, canonical_classes(names), clip)


def set_text(detector: Detector, names: Sequence[str], clip: Clip) -> None:
    """Give a two-stage detector the text embeddings of its classes, canonical names.

    Raises:
        ConfigError: it cannot have these classes, or ``clip`` is of another width.
    """
    text = Prompts(clip).embed(names).float().to(next(detector.parameters()).device)
    detector.set_classes(names, text)  # type: ignore[operator]


def set_rivals(detector: Detector, names: Sequence[str], clip: Clip) -> None:
    """Give a detector that reads text the embeddings of names that what is labelled as one of its classes is none of.

    Args:
        names: may be none.

    Raises:
        ConfigError: a name is one of the classes it is trained on.
    """
    rivals = canonical_classes(names)
    if both := [name for name in rivals if name in detector.classes]:
        raise ConfigError(f"rcnn.vild.rivals: {', '.join(both)} is trained on; name only classes that are not")
    if rivals:
        detector.head.set_rivals(Prompts(clip).embed(rivals))  # type: ignore[operator, union-attr]


def write_with_classes(run: Path, names: Sequence[str], file: Path, spec: str | None = None) -> tuple[str, ...]:
    """A weight file of a detector that looks for other classes; gives their canonical names.

    Equal names give equal files. Only a file that was made here is ever written over.

    Raises:
        ConfigError: the detector does not read text, or ``file`` is another detector.
        CheckpointError: no usable detector or CLIP.
    """
    weights = find_detector(run)
    facts = read_facts(weights)
    detector = load_detector(weights)
    check_reads_text(detector)
    if file.exists() and _RENAMED not in (read_facts(file).get("facts") or {}):
        raise ConfigError(f"{file} is a detector that this command has not made; choose another --out")
    known = tuple(facts["classes"])
    name_classes(detector, names, load_text(detector.facts, spec))
    detector.facts = {**detector.facts, _RENAMED: True}
    settings = build(DetectorSettings, facts["settings"])
    if settings.classes is None and _RENAMED not in (facts.get("facts") or {}):
        settings = settings.model_copy(update={"classes": known})  # what it was trained on stays known
    write_detector(file, detector, settings, int(facts["step"]), __version__)
    return detector.classes


# -- fewer classes ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def narrow(detector: Detector, names: Sequence[str]) -> None:
    """Let only some of a detector's classes compete; the others are as if it had never known them.

    Where classes share a softmax the rest gets the share of those that left. A detector of one stage is not changed:
    its classes do not compete.

    Args:
        names: of known classes, at least one.

    Raises:
        ConfigError: it does not know a class.
    """
    wanted = canonical_classes(names)
    unknown = [name for name in wanted if name not in detector.classes]
    if unknown or not wanted:
        raise ConfigError(f"the detector knows no {', '.join(unknown)}; it knows {', '.join(detector.classes)}")
    head = getattr(detector, "head", None)
    if not isinstance(head, RegionHead):
        return
    wanted = tuple(name for name in detector.classes if name in wanted)
    for kind, keep in _KEEP.items():
        if isinstance(head, kind):
            keep(head, [detector.classes.index(name) for name in wanted])
            detector.classes = wanted
            return
    raise ConfigError(f"a detector for {', '.join(detector.classes)} has no classes to choose from")


def _softmax(head: SoftmaxHead, numbers: list[int]) -> None:
    _rows(head.classifier, [*numbers, head.classifier.out_features - 1])


def _vild(head: ViLDHead, numbers: list[int]) -> None:
    head.space.text = head.space.text[numbers].clone()


def _lp_ovod(head: LPOVODHead, numbers: list[int]) -> None:
    base = head.classifier.out_features  # before the novel ones
    _rows(head.classifier, [number for number in numbers if number < base])
    if head.probe is not None:
        _rows(head.probe, [number - base for number in numbers if number >= base])
    head.space.text, head.share = head.space.text[numbers].clone(), head.share[numbers].clone()


def _rows(layer: nn.Linear, rows: list[int]) -> None:
    layer.weight, layer.out_features = nn.Parameter(layer.weight[rows].clone()), len(rows)
    bias: Tensor | None = layer.bias
    if bias is not None:
        layer.bias = nn.Parameter(bias[rows].clone())


#: How each head is left with some of its classes, by their numbers.
_KEEP: dict[type[RegionHead], Any] = {SoftmaxHead: _softmax, ViLDHead: _vild, LPOVODHead: _lp_ovod}
