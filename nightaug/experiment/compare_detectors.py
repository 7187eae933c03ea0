"""The detectors of a comparison: how they are made, trained, tested and asked for labels; tests bring their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from nightaug.config import Settings, build, dump_yaml, load_yaml
from nightaug.data.frames import Frame
from nightaug.detect.truth import Truth
from nightaug.errors import CheckpointError, NightaugError
from nightaug.experiment.compare_adapt import shown_clip
from nightaug.experiment.compare_data import Arm, Data
from nightaug.experiment.compare_self import facts_of
from nightaug.images import atomic_write_text
from nightaug.runs import RunFolder

Results = list[dict[str, Any]]
Say = Callable[[str], None]


class Outcome(Protocol):
    """What training says at its end."""

    @property
    def step(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    @property
    def unreadable(self) -> int: ...

    @property
    def interrupted(self) -> bool: ...


class Backend(Protocol):
    """The detectors a comparison trains; tests bring one of their own."""

    def settings(self, layers: Sequence[Mapping[str, Any]]) -> Settings:
        """The checked settings of a training run.

        Raises:
            ConfigError: unknown or wrong settings.
        """
        ...

    def check(self, settings: Settings) -> None:
        """Refuse settings of which no detector can be made, without fetching anything.

        Raises:
            ConfigError, CheckpointError: so.
        """
        ...

    def train(
        self, arm: Arm, dev: Sequence[Frame], classes: tuple[str, ...], out: Path, settings: Settings, cpu: bool
    ) -> Outcome:
        """Train in ``out``, or go on with what is there; ``arm.target`` are unlabelled images to adapt to."""
        ...

    def detect(self, run: Path, truth: Truth, cpu: bool, progress: Callable[[int, int], None]) -> Results:
        """COCO results of a run's last weights on the truth's images."""
        ...

    def label(
        self,
        runs: Sequence[Path],
        frames: Sequence[Frame],
        dev: Sequence[Frame],
        out: Path,
        data: Path,
        precision: float,
        cpu: bool,
        say: Say,
    ) -> None:
        """Write a folder of pseudo labels by the last weights of one run or of several together, or go on with it."""
        ...

    def embed(self, path: Path, before: Path, after: Path, data: Data, cpu: bool) -> None:
        """Write what training has done to features of held-out objects: ``before`` and ``after`` are runs."""
        ...


class Detectors:
    """The real detectors."""

    def settings(self, layers: Sequence[Mapping[str, Any]]) -> Settings:
        from nightaug.detect.settings import DetectorSettings

        return build(DetectorSettings, *layers)

    def check(self, settings: Settings) -> None:
        _check(settings)

    def train(
        self, arm: Arm, dev: Sequence[Frame], classes: tuple[str, ...], out: Path, settings: Settings, cpu: bool
    ) -> Outcome:
        import torch

        from nightaug.detect.sampling import Source
        from nightaug.detect.settings import DetectorSettings
        from nightaug.detect.train import DetectorTrainer

        assert isinstance(settings, DetectorSettings)
        sources = [Source(source.name, source.frames, source.weight, source.origins) for source in arm.sources]
        _follow(out, settings)
        trainer = DetectorTrainer(sources, dev, classes, out, settings, cpu, target=arm.target)
        try:
            result = trainer.run(resume=True, title=f"{arm.key}, seed {settings.seed}")
            if result.finished and not _holds_step(out, result.step):
                # Killed after the last state was complete and before its weights were written.
                trainer.save(result.step)
            return result
        except torch.OutOfMemoryError as error:
            raise NightaugError(
                f"out of GPU memory with batch {settings.batch} at {settings.width}x{settings.height}: a smaller batch "
                "is another budget, so choose another --out for it (accumulate can keep the images a step)"
            ) from error
        finally:
            trainer.folder.close()

    def detect(self, run: Path, truth: Truth, cpu: bool, progress: Callable[[int, int], None]) -> Results:
        from nightaug.detect.checkpoint import load_detector
        from nightaug.detect.inference import detect_frames
        from nightaug.devices import default_device

        device = "cpu" if cpu else default_device()
        return detect_frames(load_detector(run, device, "last"), truth, device=device, progress=progress)

    def label(
        self,
        runs: Sequence[Path],
        frames: Sequence[Frame],
        dev: Sequence[Frame],
        out: Path,
        data: Path,
        precision: float,
        cpu: bool,
        say: Say,
    ) -> None:
        from nightaug.detect.checkpoint import load_detector
        from nightaug.detect.pseudo_labels import begun_facts, label_images

        weights = [RunFolder(run).weights_path("last") for run in runs]
        facts = begun_facts(weights, data, "train", "B")
        # Rows that another detector has left are no use.
        anew = facts_of(out).get("weights_sha256") not in (None, facts["weights_sha256"])
        detectors = [load_detector(file, "cpu") for file in weights]
        device = "cpu" if cpu else None
        label_images(
            detectors, frames, dev, out, facts, precision=precision, device=device, overwrite=anew, chosen_on="dev",
            say=say,
        )  # fmt: skip

    def embed(self, path: Path, before: Path, after: Path, data: Data, cpu: bool) -> None:
        from nightaug.experiment.embedding import write_embedding

        write_embedding(path, before, after, data.dev_day, data.dev, data.classes, cpu)


def _holds_step(folder: Path, step: int) -> bool:
    """Whether a run's last weights are those of a step."""
    from nightaug.detect.checkpoint import read_facts

    try:
        return int(read_facts(RunFolder(folder).weights_path("last"))["step"]) == step
    except (CheckpointError, KeyError, TypeError, ValueError):
        return False


def _follow(folder: Path, settings: Settings) -> None:
    """Let a run that was begun go on in a comparison that was moved.

    The same weights may lie at another path; that they are the same is known by their checksum (see
    :attr:`RowState.start`). CLIP's must have the same name; where its embeddings are kept does not matter.
    """
    path = RunFolder(folder).config_path
    if not path.exists():
        return
    begun = load_yaml(path)
    now = yaml.safe_load(dump_yaml(settings))
    moved = {**begun}
    if begun.get("weights") is not None:
        moved["weights"] = now.get("weights")
    for key in ("detector", "pretrained"):
        if begun.get(key) and now.get(key) and Path(str(begun[key])).name == Path(now[key]).name:
            moved[key] = now[key]
    if "clip" in begun and shown_clip(str(begun["clip"])) == shown_clip(str(now.get("clip"))):
        moved["clip"] = now["clip"]
    if isinstance(begun.get("adaptation"), dict) and isinstance(now.get("adaptation"), dict):
        moved["adaptation"] = {**begun["adaptation"], "cache": now["adaptation"]["cache"]}
    if moved != begun:
        atomic_write_text(path, yaml.safe_dump(moved, sort_keys=False, allow_unicode=True))


def _check(settings: Settings) -> None:
    """Refuse settings of which no detector can be made; nothing is fetched for it.

    Raises:
        ConfigError: there is no such architecture, or what it needs is not installed.
        CheckpointError: weights, pretrained weights or those of CLIP are not there.
    """
    from nightaug.clip.weights import find_weights
    from nightaug.detect.checkpoint import find_detector
    from nightaug.detect.detectors import build_detector
    from nightaug.detect.settings import DetectorSettings

    assert isinstance(settings, DetectorSettings)
    build_detector(settings, ("object",), pretrained=False)
    if settings.weights:
        find_detector(Path(settings.weights))
    if settings.pretrained and _is_file_name(settings.pretrained) and not Path(settings.pretrained).is_file():
        raise CheckpointError(f"pretrained '{settings.pretrained}': no such weight file")
    used = settings.adapt != "none" or settings.clip_gate != "none"
    # A tag of open_clip may have to be fetched: that is left to training.
    if used and settings.clip != "none" and _is_file_name(settings.clip.rpartition(":")[2]):
        find_weights(settings.clip)


def _is_file_name(text: str) -> bool:
    from nightaug.clip.weights import WEIGHT_SUFFIXES

    return Path(text).suffix in WEIGHT_SUFFIXES or "/" in text
