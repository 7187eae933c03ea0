"""One row of a comparison: train one arm with one seed, test it once; what is done is never done again.

``row.json`` in the run folder says what was trained on and how far it got; with it a finished row needs no weights
any more. The test images are run through a detector once: only other weights make new detections.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nightaug.config import Settings
from nightaug.data.frames import Frame
from nightaug.detect.truth import Truth
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted, NightaugError
from nightaug.experiment.compare_data import Arm
from nightaug.images import atomic_write_bytes
from nightaug.runs import RunFolder, file_sha256, progress_bar

Results = list[dict[str, Any]]

DETECTIONS, DEV_DETECTIONS = "detections.json", "dev_detections.json"


class Outcome(Protocol):
    """What training says at its end."""

    @property
    def step(self) -> int: ...

    @property
    def finished(self) -> bool: ...


class Backend(Protocol):
    """The detectors a comparison trains; tests bring one of their own."""

    def settings(self, layers: Sequence[Mapping[str, Any]]) -> Settings:
        """The checked settings of a training run.

        Raises:
            ConfigError: unknown or wrong settings.
        """
        ...

    def train(
        self, arm: Arm, dev: Sequence[Frame], classes: tuple[str, ...], out: Path, settings: Settings, cpu: bool
    ) -> Outcome:
        """Train in ``out``, or go on with what is there."""
        ...

    def detect(self, run: Path, truth: Truth, cpu: bool, progress: Callable[[int, int], None]) -> Results:
        """COCO results of a run's last weights on the truth's images."""
        ...


class Detectors:
    """The real detectors."""

    def settings(self, layers: Sequence[Mapping[str, Any]]) -> Settings:
        from nightaug.config import build
        from nightaug.detect.settings import DetectorSettings

        return build(DetectorSettings, *layers)

    def train(
        self, arm: Arm, dev: Sequence[Frame], classes: tuple[str, ...], out: Path, settings: Settings, cpu: bool
    ) -> Outcome:
        import torch

        from nightaug.detect.sampling import Source
        from nightaug.detect.settings import DetectorSettings
        from nightaug.detect.train import DetectorTrainer

        assert isinstance(settings, DetectorSettings)
        sources = [Source(source.name, source.frames, source.weight) for source in arm.sources]
        trainer = DetectorTrainer(sources, dev, classes, out, settings, cpu)
        try:
            return trainer.run(resume=True, title=f"{arm.key}, seed {settings.seed}")
        except torch.OutOfMemoryError as error:
            raise NightaugError(
                f"out of GPU memory with batch {settings.batch} at {settings.width}x{settings.height}: a smaller batch "
                "is another budget, so choose another --out for it (accumulate can keep the images a step)"
            ) from error
        finally:
            trainer.folder.close()

    def detect(self, run: Path, truth: Truth, cpu: bool, progress: Callable[[int, int], None]) -> Results:
        import torch

        from nightaug.detect.checkpoint import load_detector
        from nightaug.detect.inference import detect_frames

        device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
        return detect_frames(load_detector(run, device, "last"), truth, device=device, progress=progress)


class RowState(msgspec.Struct):
    """``row.json``.

    Attributes:
        inputs: checksum of the training images, their boxes and weights.
        step: optimiser steps made.
        trained: training has reached its last step.
        wall_s: seconds spent on training and testing, all sessions together.
        tested: SHA-256 of the weights the detections were made with.
    """

    arm: str
    seed: int
    inputs: str
    step: int = 0
    trained: bool = False
    wall_s: float = 0.0
    tested: str | None = None


def read_state(folder: Path) -> RowState | None:
    """The state of a row, None where nothing was begun.

    Raises:
        DatasetError: the file is damaged.
    """
    path = folder / "row.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RowState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); remove {folder} to make this row anew") from error


def _write_state(folder: Path, state: RowState) -> None:
    atomic_write_bytes(folder / "row.json", msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def is_done(folder: Path) -> bool:
    """Whether a row is trained and tested."""
    state = read_state(folder)
    tested = state is not None and state.trained and state.tested is not None
    return tested and all((folder / name).is_file() for name in (DETECTIONS, DEV_DETECTIONS))


def weights_sha(folder: Path) -> str | None:
    """SHA-256 of a run's last weights, None where somebody has removed them to save space."""
    path = RunFolder(folder).weights_path("last")
    return file_sha256(path) if path.is_file() else None


class Rows:
    """Trains and tests the rows of one comparison.

    Args:
        truth, dev_truth: night test images, and the images choices are made on.
        dev: the latter's frames.
    """

    def __init__(
        self,
        backend: Backend,
        classes: tuple[str, ...],
        truth: Truth,
        dev_truth: Truth,
        dev: Sequence[Frame],
        cpu: bool,
        say: Callable[[str], None],
    ) -> None:
        self.backend, self.classes, self.cpu, self.say = backend, classes, cpu, say
        self.truth, self.dev_truth, self.dev = truth, dev_truth, dev

    def check(self, arm: Arm, seed: int, folder: Path) -> RowState:
        """The row's state, a new one where nothing was begun.

        Raises:
            ConfigError: it was begun with other training images.
        """
        inputs = arm.checksum
        state = read_state(folder) or RowState(arm.key, seed, inputs)
        if state.inputs != inputs:
            raise ConfigError(
                f"the training images of {arm.key} are not those {folder} was begun with; choose another --out, "
                "or remove that folder to make the row anew"
            )
        return state

    def train(self, arm: Arm, seed: int, folder: Path, settings: Settings) -> None:
        """Train an arm, or go on with it, or do nothing where it is trained.

        Raises:
            Interrupted: stopped by Ctrl-C.
        """
        state = self.check(arm, seed, folder)
        if state.trained:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write_state(folder, state)
        began = time.monotonic()
        try:
            result = self.backend.train(arm, self.dev, self.classes, folder, settings, self.cpu)
            state.step, state.trained = result.step, result.finished
        finally:
            state.wall_s += time.monotonic() - began
            _write_state(folder, state)
        if state.trained:
            # Several times the size of the weights, and of no use after the last step.
            shutil.rmtree(folder / "state", ignore_errors=True)
        else:
            raise Interrupted(
                f"stopped in {arm.key}, seed {seed}, at step {state.step:,}; run the same command again to go on"
            )

    def test(self, folder: Path) -> None:
        """Run a trained detector over dev and, once, over the test images.

        Raises:
            CheckpointError: it has no weights.
        """
        state = read_state(folder)
        assert state is not None
        assert state.trained
        sha = weights_sha(folder)
        if is_done(folder) and sha in (None, state.tested):
            return
        if sha is None:
            raise CheckpointError(f"{folder} has no last.safetensors; remove {folder} to make this row anew")
        began = time.monotonic()
        for truth, name in ((self.dev_truth, DEV_DETECTIONS), (self.truth, DETECTIONS)):
            with progress_bar(f"testing {folder.parent.name}", len(truth.images)) as bar:
                results = self.backend.detect(folder, truth, self.cpu, lambda done, total, bar=bar: bar(done, ""))  # type: ignore[misc]
            atomic_write_bytes(folder / name, msgspec.json.encode(results))
        state.wall_s += time.monotonic() - began
        state.tested = sha
        _write_state(folder, state)
