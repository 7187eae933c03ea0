"""The long commands, each small enough to be killed forty times in a minute, and the data they work on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_campaign.trial import command
from fault_campaign.whole import contents

#: A CycleGAN and an FCOS small enough to train in seconds.
TRANSLATOR: dict[str, Any] = {
    "width": 4, "blocks": 1, "discriminator_width": 4, "crop": 64, "load_size": 64, "steps": 8, "log_every": 2,
    "sample_every": 4, "save_every": 2, "score_images": 2, "sample_height": 64, "replay_buffer": 3,
    "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip
DETECTOR: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 64, "height": 64,
    "fcos": {"channels": 32, "convs": 1, "norm": "batch", "width": 0.25},
    "batch": 2, "steps": 6, "log_every": 2, "save_every": 2, "evaluate_every": 3, "warmup": 2, "optimizer": "adamw",
    "learning_rate": 1e-3, "ema": 0.9, "mixed_precision": "fp32", "tensorboard": False, "pretrained": None,
}  # fmt: skip
#: Frames of the world by split and time of day; tests are on the night ones of test.
COUNTS = {
    "train": {"daytime": 8, "night": 8}, "val": {"daytime": 2, "night": 2}, "test": {"daytime": 2, "night": 6},
}  # fmt: skip
WIDTH, HEIGHT = 128, 72


@dataclass(frozen=True)
class Job:
    """A command that can be killed and run again.

    Attributes:
        call: the command; the same one begins and goes on.
        out: the folder it writes.
        done: how much is finished: must never become less.
        result: what must be equal in the end, however often it was killed.
        names: of files that may differ (times, rates).
    """

    name: str
    call: Callable[[], int]
    out: Path
    done: Callable[[Path], int]
    result: Callable[[Path], dict[str, str]]
    names: frozenset[str] = field(default=frozenset())


class World:
    """The sample world and what is made of it, below one folder."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.raw, self.data = root / "world", root / "data"
        self.seed = seed

    def make(self) -> World:
        """Draw and prepare it; in this process, without torch."""
        from nightaug.data.domains import prepare
        from nightaug.data.scenes import write_world

        write_world(self.raw, COUNTS, width=WIDTH, height=HEIGHT, seed=self.seed)
        prepare(self.raw, out=self.data, check_brightness=False)
        return self

    def settings(self, name: str, values: dict[str, Any]) -> Path:
        """A YAML file of settings."""
        path = self.root / f"{name}.yaml"
        path.write_text(json.dumps(values))
        return path

    def jobs(self) -> dict[str, Job]:
        """All jobs by name."""
        root, out = self.root, self.root / "out"
        translator, detector = self.settings("translator", TRANSLATOR), self.settings("detector", DETECTOR)
        short = self.settings("short", DETECTOR | {"steps": 2, "save_every": 1, "evaluate_every": 0})
        runs = {
            "train-translator": ("--config", translator, "--cpu", "--resume"),
            "train-detector": ("--config", detector, "--data", "dataset:train:A", "--cpu", "--resume"),
        }
        jobs = [
            Job("prepare", command("prepare", self.raw, "--out", out), out, _images, contents),
            Job("translate", command("translate", self.data, "--out", out, "--workers", "2"), out, _rows, contents),
            *(
                Job(name, command(name, self.data, "--out", out, *options), out, _state, contents)
                for name, options in runs.items()
            ),
            Job("region cache", _fill(self.data, root / "clip", out), out, _cached, _embeddings(self.data)),
            Job(
                "pseudo-label",
                command(
                    "pseudo-label", root / "teacher.safetensors", self.data, "--out", out, "--score", "0.01",
                    "--batch", "1", "--device", "cpu",
                ),
                out,
                _found,
                contents,
            ),
            Job(
                "compare",
                command(
                    "compare", self.data, "--out", out, "--config", short, "--arms", "day,day+translated",
                    "--translator", "relight", "--seeds", "1", "--bootstrap", "40", "--cpu",
                ),
                out,
                _finished_rows,
                _results,
            ),
        ]  # fmt: skip
        return {job.name: job for job in jobs}

    def write_teacher(self) -> None:
        """A detector with random weights for pseudo-label; call it in a child, as it uses torch."""
        import torch

        from nightaug.detect.checkpoint import write_detector
        from nightaug.detect.detectors import build_detector
        from nightaug.detect.settings import DetectorSettings

        torch.manual_seed(self.seed)
        settings = DetectorSettings.model_validate(DETECTOR)
        detector = build_detector(settings, ("car", "pedestrian"), pretrained=False)
        write_detector(self.root / "teacher.safetensors", detector, settings, 1, "0")

    def write_clip(self) -> None:
        """A CLIP with random weights for the region cache; call it in a child, as it uses torch."""
        import torch

        from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny

        settings = TinySettings(
            size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1
        )
        torch.manual_seed(self.seed)
        write_tiny(self.root / "clip", build_tiny(settings), settings)


# -- how much is done ------------------------------------------------------------------------------------------


def _images(out: Path) -> int:
    return sum(1 for _ in out.glob("*/[AB]/*.jpg"))


def _rows(out: Path) -> int:
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def _found(out: Path) -> int:
    """Images that have been looked at: the whole lines."""
    rows = out / "detections.jsonl"
    return rows.read_bytes().count(b"\n") if rows.exists() else 0


def _state(out: Path) -> int:
    from nightaug.runs import RunFolder

    return RunFolder(out).latest_state() or 0


def _finished_rows(out: Path) -> int:
    return sum(1 for _ in out.rglob("row.json")) + sum(1 for _ in out.rglob("last.safetensors"))


def _cache(out: Path) -> Path | None:
    return next((path.parent for path in out.glob("*/cache.json")), None)


def _cached(out: Path) -> int:
    """Rows of the cache, read as a process that fills it would."""
    from nightaug.clip.region_cache import RegionCache

    folder = _cache(out)
    return len(RegionCache(folder)) if folder else 0


# -- results that are no bytes ---------------------------------------------------------------------------------


def _frames(data: Path) -> list[Any]:
    from nightaug.data.formats import open_dataset

    return [frame for frame in open_dataset(data).frames() if frame.path is not None and frame.boxes]


def _fill(data: Path, clip: Path, out: Path) -> Callable[[], int]:
    def call() -> int:
        from nightaug.clip import fill
        from nightaug.clip.encoder import load_clip
        from nightaug.clip.region_cache import RegionCache
        from nightaug.errors import NightaugError

        fill.SEGMENT_BYTES = 256  # a segment every few images, not every few minutes
        model = load_clip(str(clip), precision="fp32")
        try:
            RegionCache.open(out, model).fill(_frames(data), model, batch=4)
        except (NightaugError, OSError) as error:  # as the commands that fill a cache tell it
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return call


def _embeddings(data: Path) -> Callable[[Path], dict[str, str]]:
    """Of each image which boxes have an embedding, and these to two digits: batches of other sizes round otherwise."""

    def result(out: Path) -> dict[str, str]:
        from nightaug.clip.region_cache import RegionCache

        folder = _cache(out)
        if folder is None:
            return {}
        cache, found = RegionCache(folder), {}
        for frame in _frames(data):
            rows, mask = cache.lookup(frame)
            found[str(frame.path)] = f"{mask.tolist()} {(rows.astype(float).round(2) + 0.0).tolist()}"
        return found

    return result


def _results(out: Path) -> dict[str, str]:
    """The weights and detections of every run, its state, and the table's numbers; without the time it took."""
    kept = ("last.safetensors", "detections.json")
    found = {name: value for name, value in contents(out).items() if name.endswith(kept)}
    for path in out.rglob("row.json"):
        found[str(path.relative_to(out))] = _timeless(json.loads(path.read_bytes()))
    table = json.loads((out / "table.json").read_bytes()) if (out / "table.json").exists() else {}
    return found | {key: _timeless(table[key]) for key in ("arms", "verdict") if key in table}


def _timeless(value: Any) -> str:
    def without(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: without(inner) for key, inner in item.items() if key != "wall_s"}
        return [without(inner) for inner in item] if isinstance(item, list) else item

    return json.dumps(without(value), sort_keys=True)
