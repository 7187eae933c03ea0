"""One row of a comparison: train one arm with one seed, test it once; what is done is never done again.

``row.json`` in the run folder says what was trained on and how far it got; with it a finished row needs no weights
any more. The test images are run through a detector once: only other weights make new detections.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nightaug.config import Settings
from nightaug.data.frames import Frame
from nightaug.detect.truth import Truth
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted
from nightaug.experiment.compare_data import Arm, ArmSource, Data
from nightaug.experiment.compare_detectors import Backend, Say
from nightaug.experiment.compare_self import check_teacher, labels_of
from nightaug.images import atomic_write_bytes
from nightaug.runs import RunFolder, file_sha256, progress_bar

DETECTIONS, DEV_DETECTIONS, FEATURES = "detections.json", "dev_detections.json", "embedding.json"


class RowState(msgspec.Struct):
    """``row.json``.

    Attributes:
        inputs: checksum of the training images, their boxes and weights, and of what the arm adapts to.
        step: optimiser steps made.
        trained: training has reached its last step.
        wall_s: seconds spent on training and testing, all sessions together.
        tested: SHA-256 of the weights the detections were made with.
        start: SHA-256 of the weights training began with, None without any (or where an older version did not say).
    """

    arm: str
    seed: int
    inputs: str
    step: int = 0
    trained: bool = False
    wall_s: float = 0.0
    tested: str | None = None
    start: str | None = None


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
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); remove {folder} to make this row anew") from error


def _write_state(folder: Path, state: RowState) -> None:
    atomic_write_bytes(folder / "row.json", msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def is_begun(folder: Path) -> bool:
    """Whether a row has made steps that are kept: what its settings were is then fixed."""
    state = read_state(folder)
    return state is not None and (state.trained or state.step > 0 or _has_steps(folder))


def _has_steps(folder: Path) -> bool:
    return any(path.exists() for path in (folder / "state", RunFolder(folder).weights_path("last")))


def is_done(folder: Path) -> bool:
    """Whether a row is trained and tested."""
    state = read_state(folder)
    tested = state is not None and state.trained and state.tested is not None
    return tested and all((folder / name).is_file() for name in (DETECTIONS, DEV_DETECTIONS))


def weights_sha(folder: Path) -> str | None:
    """SHA-256 of a run's last weights, None where somebody has removed them to save space."""
    path = RunFolder(folder).weights_path("last")
    return file_sha256(path) if path.is_file() else None


def _start_sha(settings: Settings) -> str | None:
    """Checksum of the weights a run starts from, None where there are none to be seen."""
    weights, pretrained, detector = (getattr(settings, key, None) for key in ("weights", "pretrained", "detector"))
    # A YOLO's .pt file is its architecture and weights in one.
    start = weights or pretrained or (detector if str(detector).endswith(".pt") else None)
    if start is None:
        return None
    path = Path(start)
    files = [RunFolder(path).weights_path(which) for which in ("best", "last")] if path.is_dir() else [path]
    return next((file_sha256(file) for file in files if file.is_file()), None)


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
        say: Say,
    ) -> None:
        self.backend, self.classes, self.cpu, self.say = backend, classes, cpu, say
        self.truth, self.dev_truth, self.dev = truth, dev_truth, dev

    def check(self, arm: Arm, seed: int, folder: Path, start: str | None = None) -> RowState:
        """The row's state, a new one where nothing was begun.

        Args:
            start: checksum of the weights training begins with, where known.

        Raises:
            ConfigError: it was begun with other training images or weights.
        """
        inputs = arm.checksum
        known = read_state(folder) if is_begun(folder) else None
        state = known or RowState(arm.key, seed, inputs, start=start)
        if state.start is not None and start is not None and state.start != start:
            raise ConfigError(
                f"the weights {arm.key}, seed {seed} was begun with are others now; bring the old ones back, choose "
                f"another --out, or remove {folder} to make the row anew"
            )
        if state.inputs != inputs:
            raise ConfigError(
                f"the training images or settings of {arm.key} are not those {folder} was begun with; choose another "
                "--out, or remove that folder to make the row anew"
            )
        return state

    def train(self, arm: Arm, seed: int, folder: Path, settings: Settings) -> None:
        """Train an arm, or go on with it, or do nothing where it is trained.

        Raises:
            ConfigError: it, or another arm of this seed, was begun with other training images or weights.
            Interrupted: stopped by Ctrl-C; what was trained to its end by then is not trained again.
        """
        start = _start_sha(settings)
        state = self.check(arm, seed, folder, start)
        if state.trained:
            return
        if not state.step and not _has_steps(folder):
            # It failed before its first state: settings it was to be made with would be taken for those of a run.
            shutil.rmtree(folder, ignore_errors=True)
        for other in sorted(folder.parent.parent.glob(f"*/{folder.name}/row.json")) if start else ():
            theirs = read_state(other.parent)
            if theirs is not None and theirs.start not in (None, start):
                raise ConfigError(
                    f"{theirs.arm}, seed {seed} was trained from other weights than {arm.key} would be now; bring the "
                    "old ones back, or choose another --out"
                )
        folder.mkdir(parents=True, exist_ok=True)
        _write_state(folder, state)
        began = time.monotonic()
        try:
            result = self.backend.train(arm, self.dev, self.classes, folder, settings, self.cpu)
            state.step, state.trained = result.step, result.finished
        finally:
            state.wall_s += time.monotonic() - began
            _write_state(folder, state)
        if result.unreadable:
            self.say(f"  {result.unreadable:,} training images could not be read and were stepped over")
        if state.trained:
            # Several times the size of the weights, and of no use after the last step.
            shutil.rmtree(folder / "state", ignore_errors=True)
        if result.interrupted or not state.trained:
            when, at = ("after", "") if state.trained else ("in", f", at step {state.step:,}")
            raise Interrupted(f"stopped {when} {arm.key}, seed {seed}{at}; run the same command again to go on")

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

    def label(
        self, teacher: Arm, runs: Sequence[Path], out: Path, data: Data, precision: float, how: str | None = None
    ) -> ArmSource:
        """What a finished arm finds on the night images of train, as a part of another.

        Args:
            runs: in which it was trained; of several, what all of them find is fused.
            precision: share of the labels that is to be right on dev.
            how: the teacher was trained, where that is another way than its row's.

        Raises:
            ConfigError: the labels there are another detector's.
            CheckpointError: there are none, and the arm's weights are gone.
            Interrupted: stopped by Ctrl-C.
        """
        shas = [weights_sha(run) for run in runs]
        if not check_teacher(out, shas):
            if None in shas:
                run = runs[shas.index(None)]
                raise CheckpointError(f"{run} has no last.safetensors to label images by; remove {run} to make it anew")
            frames = data.unlabelled()
            if not frames:
                raise DatasetError(f"{data.root}: train/B has no night images for {teacher.key} to label")
            self.say(f"{teacher.name} labels {len(frames):,} night images")
            self.backend.label(
                runs, frames, self.dev, out, data.root, precision, self.cpu, lambda text: self.say(f"  {text}")
            )
        return labels_of(teacher, out, how)

    def embed(self, arm: Arm, before: Path, folder: Path, data: Data) -> None:
        """Look at the features before and after an arm's training, for the page; of one seed an arm."""
        if any(folder.parent.glob(f"seed*/{FEATURES}")):
            return
        self.say(f"{arm.name}: features before and after")
        try:
            self.backend.embed(folder / FEATURES, before, folder, data, self.cpu)
        except (DatasetError, CheckpointError) as error:
            self.say(f"  left out: {error}")
