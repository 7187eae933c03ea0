"""YOLO (ultralytics: AGPL-3.0, the extra ``yolo``) as one of our detectors. The only file that imports ultralytics.

Only its networks and its losses are used, not its trainer: data, label weights, run folder, resume and evaluation are
those of every other detector. It is imported when a YOLO is built, never into a working directory, never installing
anything, and without asking the network.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from nightaug.detect.detectors.base import Assignment, Detector, Forward, Found, Target
from nightaug.detect.detectors.pretrained import fitting
from nightaug.detect.detectors.yolo_files import check_architecture, fetch_release, find_architecture, read_checkpoint
from nightaug.detect.detectors.yolo_loss import Anchors, anchor_points, decode, yolo_losses
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import Letterbox, atomic_open
from nightaug.runs import load_weights, user_cache

#: Candidates an image before non-maximum suppression, as in ultralytics' validation.
CANDIDATES = 30_000


class YOLODetector(Detector):
    """A YOLO of ultralytics.

    Args:
        settings: see :class:`~nightaug.detect.settings.DetectorSettings`.
        classes: canonical class names.
        pretrained: load ``settings.pretrained``, or the weights of a detector that is a ``.pt`` file.
        facts: what an earlier detector's :attr:`facts` were: its architecture, where the file it came from may be gone.

    Attributes:
        facts: plain values that belong beside the weights.
        progress: how far training is, 0 to 1; yolo26 moves its loss from one head to the other by it.
        loaded: what was loaded, for the log.

    Raises:
        ConfigError: ultralytics is missing, or the architecture is unknown or cannot be built.
        CheckpointError: the weights cannot be had or do not fit.
    """

    class_losses = ("cls",)

    def __init__(
        self,
        settings: DetectorSettings,
        classes: tuple[str, ...],
        pretrained: bool = True,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.follow(settings, classes)
        self.progress = 0.0
        tasks = _ultralytics()
        models = Path(tasks.__file__).parents[1] / "cfg" / "models"
        architecture = (facts or {}).get("architecture") or find_architecture(settings.detector, models)
        architecture = check_architecture(architecture, settings.detector, tasks) | {"nc": len(classes)}
        architecture["yaml_file"] = Path(str(architecture.get("yaml_file", ""))).name  # not where it lay
        self.facts = {"architecture": copy.deepcopy(architecture)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = _build(tasks, architecture, settings.detector)
        self.network.names = dict(enumerate(classes))
        # Gains of 1: the losses come out raw, and the weights apply where all weights do.
        self.network.args = SimpleNamespace(box=1.0, cls=1.0, dfl=1.0, epochs=1)
        gains = settings.yolo
        third = "dfl" if self.head.reg_max > 1 else "l1"
        self.loss_weights = {"box": gains.box, "cls": gains.cls, third: gains.dfl}
        self.loaded = self._load_pretrained(settings) if pretrained else ""

    @property
    def head(self) -> Any:
        """ultralytics' Detect."""
        return self.network.model[-1]

    def _load_pretrained(self, settings: DetectorSettings) -> str:
        source = settings.pretrained
        if settings.detector.endswith(".pt") and source in {None, "auto"}:
            source = settings.detector
        if source is None:
            return ""
        path = _released(settings.detector) if source == "auto" else Path(source)
        if not path.is_file():
            raise CheckpointError(
                f"pretrained '{source}': no such file; give a .pt or .safetensors file, auto (ultralytics' own weights "
                "of a detector given by name), or null to start from scratch"
            )
        tensors = read_checkpoint(path)[0] if path.suffix == ".pt" else load_weights(path)[0]
        tensors = {key.removeprefix("network."): value for key, value in tensors.items()}
        own = self.network.state_dict()
        fits, missing = fitting(tensors, own)
        counted = sum(not key.endswith("num_batches_tracked") for key in own)
        used = counted - len(missing)
        if 2 * used < counted:
            raise CheckpointError(
                f"{path} does not fit {settings.detector}: only {used} of {counted} tensors have the right "
                "name and shape; give weights of the same family and size"
            )
        bad = next((key for key, value in fits.items() if not bool(torch.isfinite(value.float()).all())), None)
        if bad is not None:
            raise CheckpointError(f"{path} holds NaN or infinite weights ({bad})")
        self.network.load_state_dict(fits, strict=False)
        rest = " (the rest is shaped by other classes and starts anew)" if missing else ""
        return f"{path.name}: {used} of {counted} tensors{rest}"

    # -- one pass ------------------------------------------------------------------------------------------------

    def run(self, images: Tensor) -> Forward:
        """See :meth:`Detector.run`."""
        x = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        with _inputs_of([branch[-1] for branch in self.head.cv3]) as hidden, _raw_outputs(self.head):
            raw = self.network(x)
        many = raw.get("one2many", raw)
        outputs: dict[str, Any] = {
            "scores": many["scores"],  # (N, K, A)
            "distances": many["boxes"],  # (N, 4 R, A)
            "final": raw.get("one2one"),  # the head without suppression, where there is one
            "hidden": hidden,  # (N, C, H, W) a level: what the class scores are made of
            "raw": raw,
        }
        shared = {"strides": self.head.stride.float(), "size": (images.shape[-2], images.shape[-1])}
        return Forward({}, list(many["feats"]), outputs, shared)

    def losses(self, forward: Forward, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Assignment]:
        """See :meth:`Detector.losses`; ``progress`` should be set before it in training."""
        criterion, raw, size = self.network.init_criterion(), forward.outputs["raw"], forward.shared["size"]
        values, assignment = yolo_losses(criterion, raw, targets, size, self.progress)
        return dict(zip(self.loss_weights, values.unbind(), strict=True)), assignment

    @torch.no_grad()
    def found(self, forward: Forward) -> list[Found]:
        """As ultralytics validates: every class over the score, class-wise suppression, the best ``max_detections``.

        yolo26's one-to-one head gives each object once: its best ``max_detections`` as they are.
        """
        out, final = forward.outputs, forward.outputs["final"]
        scores = (final or out)["scores"].float().sigmoid().transpose(1, 2)  # (N, A, K)
        boxes = decode(final["boxes"] if final else out["distances"], self._anchors(forward))
        limit = torch.tensor([self.width, self.height] * 2, device=boxes.device, dtype=boxes.dtype)
        result = []
        for score, box in zip(scores, boxes, strict=True):
            flat = score.flatten()
            index = (flat > self.score).nonzero().squeeze(1)
            best, order = flat[index].topk(min(self.max_detections if final else CANDIDATES, len(index)))
            place, label = index[order] // score.shape[1], index[order] % score.shape[1]
            own = box[place]
            if not final:
                keep = batched_nms(own, best, label, self.nms)[: self.max_detections]
                own, best, label = own[keep], best[keep], label[keep]
            own = torch.minimum(own.clamp(min=0), limit)
            solid = ((own[:, 2:] - own[:, :2]) > 0.5).all(dim=1)
            result.append(Found(own[solid], best[solid], label[solid]))
        return result

    def _anchors(self, forward: Forward) -> Anchors:
        return anchor_points(forward.pyramid, forward.shared["strides"])

    # -- regions -------------------------------------------------------------------------------------------------

    def class_scores(self, forward: Forward) -> Tensor:
        """See :meth:`Detector.class_scores`; from yolo26 those of the one-to-many head, as everything here."""
        return forward.outputs["scores"].detach().float().sigmoid().transpose(1, 2)  # type: ignore[no-any-return]

    def regions(
        self,
        forward: Forward,
        image: Tensor,
        where: Tensor,
        labels: Tensor,
        letterboxes: list[Letterbox] | None = None,
    ) -> RegionBatch:
        """See :meth:`Detector.regions`.

        A region's features are the last hidden features of the class branch, which have one width on all levels.
        Its quality is the predicted score of the object's class (of background: the best one): the assignment trains
        that score towards how well class and box fit together (a target that grows with the predicted box' IoU), which
        is what FCOS needs centerness for. From yolo26 all this is of the one-to-many head, through which gradients
        reach the backbone.
        """
        out, anchors = forward.outputs, self._anchors(forward)
        features = torch.cat([level.flatten(2) for level in out["hidden"]], dim=2)[image, :, where]  # (P, D)
        scores = out["scores"].float()[image, :, where].sigmoid()  # (P, K)
        best = scores.detach().max(dim=1)
        quality = scores.gather(1, torch.where(labels < 0, best.indices, labels)[:, None]).squeeze(1)
        return RegionBatch(
            features,
            decode(out["distances"].detach(), anchors)[image, where],
            labels,
            best.values,
            quality,
            image,
            anchors.level[where],
            forward.pyramid,
            letterboxes,
        )


@contextmanager
def _inputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The inputs of some layers during one pass, in the layers' order."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _raw_outputs(head: Any) -> Iterator[None]:
    """Have the head give what the loss needs in evaluation too; its layers stay as they are."""
    before, head.training = head.training, True
    try:
        yield
    finally:
        head.training = before


def export_pt(detector: Detector, path: str | os.PathLike[str]) -> None:
    """Write a plain ultralytics checkpoint, which ``YOLO("x.pt")`` loads; no class of nightaug is in it.

    Raises:
        ConfigError: the detector is no YOLO.
    """
    if not isinstance(detector, YOLODetector):
        raise ConfigError(
            f"{detector.name} is no YOLO, and only those can be written for ultralytics; share the run's "
            "last.safetensors, which nightaug reads anywhere"
        )
    network = copy.deepcopy(detector.network).cpu().float().eval().to(memory_format=torch.contiguous_format)
    network.requires_grad_(True)
    network.args = {"task": "detect", "imgsz": max(detector.width, detector.height)}
    network.task = "detect"
    content = {"epoch": -1, "model": network, "ema": None, "optimizer": None, "train_args": dict(network.args)}
    with atomic_open(path, "wb") as stream:
        torch.save(content, stream)


# -- ultralytics itself ------------------------------------------------------------------------------------------


def _ultralytics() -> Any:
    """``ultralytics.nn.tasks``, imported without a network, without an installer, and leaving the process as it was.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    name = "ultralytics.nn.tasks"
    if name in sys.modules:
        return sys.modules[name]
    cache = user_cache("ultralytics")
    os.environ["YOLO_AUTOINSTALL"] = "0"  # else it would pip-install what a checkpoint names
    # It asks the network whether there is one, sends statistics, and writes settings into the home folder.
    for key, value in {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(cache), "YOLO_VERBOSE": "0"}.items():
        os.environ.setdefault(key, value)
    threads, drawing, save = os.environ.get("OMP_NUM_THREADS"), cv2.getNumThreads(), torch.save
    opening = PIL.Image.open
    printing = np.get_printoptions()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").split(".")[0] == "ultralytics"
        raise ConfigError(
            "YOLO needs ultralytics (AGPL-3.0): pip install 'nightaug[yolo]'"
            if missing
            else f"ultralytics cannot be imported ({error}); install it again: pip install 'nightaug[yolo]'"
        ) from error
    finally:
        # Its import sets all of these for the whole process; OpenCV without threads would slow everything else down.
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        cv2.setNumThreads(drawing)
        torch.save = save
        PIL.Image.open = opening  # theirs wants another package as soon as a file is no image
        np.set_printoptions(**printing)


def _build(tasks: Any, architecture: dict[str, Any], source: str) -> Any:
    try:
        network = tasks.DetectionModel(copy.deepcopy(architecture), verbose=False)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"{source}: its architecture cannot be built ({error})") from error
    return network.train()


def _released(detector: str) -> Path:
    downloads = importlib.import_module("ultralytics.utils.downloads")
    release = inspect.signature(downloads.attempt_download_asset).parameters["release"].default
    return fetch_release(detector, str(release))
