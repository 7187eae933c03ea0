"""A small prepared dataset with drives, and detectors that need no training."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nightaug.config import Settings, build
from nightaug.data.formats import coco
from nightaug.data.frames import Box, Frame
from nightaug.detect.adaptation.settings import AdaptationSettings
from nightaug.detect.pseudo_labels import weights_known
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, NothingSure
from nightaug.experiment.compare import run_compare
from nightaug.experiment.compare_data import Arm, Data
from nightaug.images import encode_image
from nightaug.runs import file_sha256

CLASSES = ("car", "traffic light", "truck")
SIDE = 64


def write_part(root: Path, split: str, domain: str, names: Mapping[str, str], trucks: bool = True) -> None:
    """Images of one folder with two cars, a light and sometimes a truck each; ``names``: file name -> drive."""
    folder = root / split / domain
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.full((SIDE, SIDE, 3), 200 if domain == "A" else 40, np.uint8)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, (name, drive) in enumerate(names.items(), 1):
        # No two images are the same file.
        picture[0, 0] = list(zlib.crc32(f"{root.name}/{split}/{domain}/{name}".encode()).to_bytes(4)[:3])
        (folder / name).write_bytes(encode_image(picture, "png"))
        time = "daytime" if domain == "A" else "night"
        images.append(
            {"id": number, "file_name": name, "width": SIDE, "height": SIDE, "timeofday": time, "video": drive}
        )
        found = [(1, 2, 20), (1, 30, 16), (2, 48, 6)] + ([(3, 24, 30)] if trucks and number % 3 == 0 else [])
        for category, at, side in found:
            boxes.append(
                {
                    "id": len(boxes) + 1, "image_id": number, "category_id": category,
                    "bbox": [at, at % 20, side, side], "area": side * side, "iscrowd": 0,
                }
            )  # fmt: skip
    document = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
    file = root / "annotations" / f"{split}_{domain}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def names_of(drives: Sequence[str], each: int, word: str) -> dict[str, str]:
    """``each`` images of every drive."""
    return {f"{word}-{drive}-{i}.png": drive for drive in drives for i in range(each)}


def make_dataset(root: Path, val: bool = False, trucks: bool = True) -> Path:
    """8 train drives with 3 day and 3 night images each, 10 test drives of 3 night images; val drives on demand."""
    train = [f"d{i}" for i in range(8)]
    write_part(root, "train", "A", names_of(train, 3, "day"), trucks)
    write_part(root, "train", "B", names_of(train, 3, "night"), trucks)
    write_part(root, "test", "A", names_of(["t0"], 1, "day"), trucks)
    write_part(root, "test", "B", names_of([f"t{i}" for i in range(10)], 3, "night"), trucks)
    if val:
        write_part(root, "val", "A", names_of(["v0"], 2, "day"), trucks)
        write_part(root, "val", "B", names_of(["v0", "v1"], 2, "night"), trucks)
    return root


def make_translated(root: Path, data: Path, weights: Mapping[str, float] | None = None) -> Path:
    """What translate makes of the dataset's train/A, with a manifest; ``weights`` by file name."""
    document = json.loads((data / "annotations" / "train_A.json").read_text())
    names = {image["file_name"]: image["video"] for image in document["images"]}
    write_part(root, "train", "B", names)
    rows = [
        {
            "source": f"train/A/{name}", "output": f"train/B/{name}", "sha256": f"{number:064x}", "translator": "gan",
            "checkpoint_sha": None, "direction": "day2night", "seed": 0, "source_timeofday": "daytime", "inputs": 1,
            "weight": (weights or {}).get(name, 1.0), "dropped_boxes": [2] if number == 1 else [],
        }
        for number, name in enumerate(names)
    ]  # fmt: skip
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "translation.json").write_text(json.dumps({"direction": "day2night", "finished": True}))
    return root


class FakeSettings(Settings):
    detector: str = "fake"
    steps: int = 10
    batch: int = 4
    width: int = 64
    height: int = 64
    seed: int = 0
    weights: str | None = None
    pretrained: str | None = None
    patience: int | None = 3
    learning_rate: float = 0.1
    workers: int = 0
    target: str | None = None
    adapt: Literal["none", "vlmcshfg"] = "none"
    adaptation: AdaptationSettings = AdaptationSettings()
    clip: str = "none"
    clip_gate: str = "none"


class Trained(NamedTuple):
    step: int
    finished: bool
    unreadable: int = 0
    interrupted: bool = False


#: Share of the boxes each arm's detector finds.
SKILL = {"day": 0.3, "day+night": 0.9, "night": 0.85, "day+translated-gan": 0.6, "day+translated-relight": 0.6}


class FakeDetectors:
    """Finds as many boxes as its arm is said to; counts what it is asked for."""

    def __init__(self, skill: Mapping[str, float] = SKILL) -> None:
        self.skill = dict(skill)
        self.trained: list[tuple[str, int, Settings, Arm, list[Frame]]] = []
        self.detected: list[tuple[str, str, int]] = []
        self.checked: list[Settings] = []
        self.embedded: list[tuple[str, str, str]] = []
        self.labelled: list[tuple[str, str, int]] = []
        #: The runs that labelled together, of each call.
        self.teachers: list[list[Path]] = []
        self.precisions: list[float] = []
        #: Rows (arm's folder, seed) in which Ctrl-C is pressed the next time, and classes an arm never finds.
        self.stop_in: set[tuple[str, str]] = set()
        #: Rows in whose last step it is pressed.
        self.stop_at_end_of: set[tuple[str, str]] = set()
        self.blind: dict[str, set[str]] = {}
        #: Arms that can label nothing.
        self.unsure: set[str] = set()

    def settings(self, layers: Sequence[Mapping[str, Any]]) -> FakeSettings:
        return build(FakeSettings, *layers)

    def check(self, settings: Settings) -> None:
        assert isinstance(settings, FakeSettings)
        self.checked.append(settings)
        if settings.detector == "nosuch":
            raise ConfigError("unknown detector 'nosuch'")

    def train(
        self, arm: Arm, dev: Sequence[Frame], classes: tuple[str, ...], out: Path, settings: Settings, cpu: bool
    ) -> Trained:
        assert isinstance(settings, FakeSettings)
        self.trained.append((f"{out.parent.name}/{out.name}", settings.seed, settings, arm, list(dev)))
        if (out.parent.name, out.name) in self.stop_in:
            self.stop_in.remove((out.parent.name, out.name))
            (out / "state").mkdir()
            return Trained(3, False, interrupted=True)
        (out / "last.safetensors").write_bytes(f"{out.parent.name} {out.name}".encode())
        pressed = (out.parent.name, out.name) in self.stop_at_end_of
        self.stop_at_end_of.discard((out.parent.name, out.name))
        return Trained(settings.steps, True, interrupted=pressed)

    def detect(self, run: Path, truth: Truth, cpu: bool, progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        arm = run.parent.name
        self.detected.append((arm, run.name, len(truth.images)))
        rng = np.random.default_rng(zlib.crc32(f"{arm}{run.name}".encode()))
        blind = {truth.classes.index(name) + 1 for name in self.blind.get(arm, set())}
        results = []
        for row in truth.annotations:
            hit = rng.random() < self.skill.get(arm, 0.5) and row["category_id"] not in blind
            results.append(
                {
                    "image_id": row["image_id"],
                    "category_id": row["category_id"],
                    "bbox": row["bbox"] if hit else [0.0, 50.0, 10.0, 10.0],
                    "score": round(float(0.5 + 0.4 * rng.random() if hit else 0.4 * rng.random()), 4),
                }
            )
        return results

    def label(
        self,
        runs: Sequence[Path],
        frames: Sequence[Frame],
        dev: Sequence[Frame],
        out: Path,
        data: Path,
        precision: float,
        cpu: bool,
        say: object,
    ) -> None:
        """Labels every second image: with one car, further right with every seed."""
        run = runs[0]
        self.teachers.append(list(runs))
        self.precisions.append(precision)
        assert not any(frame.boxes for frame in frames)
        assert not {frame.path for frame in frames} & {frame.path for frame in dev}
        self.labelled.append((run.parent.name, run.name, len(frames)))
        if run.parent.name in self.unsure:
            raise NothingSure("the detector is sure of nothing")
        (out / "train").mkdir(parents=True, exist_ok=True)
        made = []
        for frame in frames[::2]:
            assert frame.path is not None
            (out / "train" / frame.path.name).write_bytes(frame.path.read_bytes())
            left = 5.0 + int(run.name.removeprefix("seed"))
            made.append(Frame(frame.path.name, [Box(left, 5, left + 20, 25, "car")], 64, 48, "night"))
        coco.write(made, out / "annotations" / "train.json", ("car",))
        known = weights_known([file_sha256(one / "last.safetensors") for one in runs])
        facts = {"weights_sha256": known, "finished": True}
        (out / "pseudo_labels.json").write_text(json.dumps(facts))

    def embed(self, path: Path, before: Path, after: Path, data: Data, cpu: bool) -> None:
        self.embedded.append((before.name, after.parent.name, after.name))
        assert not {frame.path for frame in data.dev_day} & {frame.path for frame in data.train["A"]}
        path.write_text("{}")


ARMS = ("day", "night", "day+night", "day+translated")
OPTIONS = {"min_boxes": 25, "bootstrap": 40}


class World:
    """A dataset, a translated folder of it, and a comparison that is run as often as one likes."""

    def __init__(self, root: Path) -> None:
        self.data = make_dataset(root / "data")
        self.made = make_translated(root / "gan", self.data)
        self.out = root / "out"
        self.fake = FakeDetectors()
        self.lines: list[str] = []
        self.reports: list[Path] = []

    def run(self, **changes: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = {"arms": ARMS, "translators": [str(self.made)], "seeds": 1, "options": OPTIONS}
        self.fake.trained.clear()
        self.fake.detected.clear()

        def report(folder: Path, say: Callable[[str], None]) -> Path:
            assert (folder / "table.json").exists()
            self.reports.append(folder)
            return folder / "index.html"

        return run_compare(
            self.data, self.out, **{**wanted, **changes}, say=self.lines.append, backend=self.fake, report=report
        )

    def names(self) -> list[str]:
        return [name for name, *_ in self.fake.trained]

    def read(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())


def arm_of(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(arm for arm in table["arms"] if arm["name"] == name)
