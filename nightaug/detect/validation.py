"""Average precision on validation images while a detector trains."""

from __future__ import annotations

from collections.abc import Sequence

from nightaug.data.frames import Frame
from nightaug.detect.detectors import Detector
from nightaug.detect.evaluate import evaluate
from nightaug.detect.inference import detect_frames
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.truth import Truth


class Validator:
    """Evaluates detectors on a fixed set of frames."""

    def __init__(self, frames: Sequence[Frame], classes: tuple[str, ...], settings: DetectorSettings) -> None:
        self.truth = Truth.from_frames(frames, classes)
        self.batch = settings.batch

    def __call__(self, detector: Detector, precision: str) -> dict[str, float]:
        """``val_AP``, ``val_AP50`` and ``val_AP/CLASS``, fractions; classes without boxes are left out."""
        results = detect_frames(detector, self.truth, batch=self.batch, precision=precision)
        metrics = evaluate(self.truth, results, score=None)
        scores = {f"val_{name}": metrics["all"][name] for name in ("AP", "AP50")}
        scores |= {f"val_AP/{name}": value["AP"] for name, value in metrics["per_class"].items()}
        return {name: float(value) for name, value in scores.items() if value is not None}
