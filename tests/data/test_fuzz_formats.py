"""Label documents that are nearly right: read, read in part, or refused in one line; never a crash, never a way out."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzzing import fuzz, promptly
from hypothesis import given
from hypothesis import strategies as st

from nightaug.data.formats import open_dataset
from nightaug.data.formats.base import safe_name
from nightaug.data.frames import Frame
from nightaug.errors import NightaugError
from nightaug.images import write_image

# Below fuzzing, which says where this lies.
from fault_campaign import damage  # isort: skip
from fault_campaign.damage import FORMATS, Row, documents, encoded  # isort: skip
from helpers import picture  # isort: skip

numbers = st.one_of(st.floats(), st.integers(-(10**40), 10**40), st.sampled_from([0, 1, 30, 64, 1e30, -1e30]))
boxes = st.lists(st.tuples(st.sampled_from(["car", "pedestrian"]), *[numbers] * 4), max_size=4)
names = st.one_of(
    st.sampled_from([*damage.NAMES, "good.jpg", "sub/good.jpg", ""]),
    st.text(max_size=20),
    st.text("./\\:a", max_size=9),
)
rows = st.lists(st.builds(Row, names, boxes), min_size=1, max_size=4)
chances = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("good.jpg", "sub/good.jpg", "other.png"):
        write_image(folder / "images" / name, picture(width=64, height=48))
    return folder


def put(root: Path, content: dict[str, bytes]) -> None:
    """Lay label files beside the images, in place of those of the last example."""
    shutil.rmtree(root / "labels", ignore_errors=True)
    (root / "labels").mkdir()
    for at, (name, data) in enumerate(content.items()):
        place = root if name == "data.yaml" else root / "labels"
        (place / (name if name == "data.yaml" else f"{at}{Path(name).suffix}")).write_bytes(data)


def check(root: Path, format: str) -> None:
    """What is read can be used, and lies where it may."""
    try:
        with promptly():
            dataset = open_dataset(root, root / "images", root / "labels", format)
    except NightaugError as error:
        said = str(error)
    else:
        said = ""
        check_frames(root, list(dataset.frames()))
        for problem in dataset.problems.listed:
            assert "\n" not in problem.where + problem.kind + problem.detail
    assert "\n" not in said


def check_frames(root: Path, frames: list[Frame]) -> None:
    """Names and paths stay inside, boxes are boxes."""
    inside = str((root / "images").resolve())
    for frame in frames:
        assert safe_name(frame.name) == (frame.name, "")
        assert frame.path is None or str(frame.path.resolve()).startswith(inside)
        for box in frame.boxes:
            assert all(math.isfinite(value) for value in box.xyxy)
            assert box.xyxy[0] < box.xyxy[2]
            assert box.xyxy[1] < box.xyxy[3]


@pytest.mark.parametrize("format", FORMATS)
@fuzz(25)
@given(rows=rows)
def test_odd_names_and_boxes(root: Path, format: str, rows: list[Row]) -> None:
    put(root, {name: encoded(value) for name, value in documents(format, rows).items()})
    check(root, format)


GOOD = [Row("good.jpg", damage.GOOD_BOXES), Row("sub/good.jpg", damage.GOOD_BOXES), Row("other.png", [])]


@pytest.mark.parametrize("format", ["scalabel", "bdd100k", "coco"])
@fuzz(60)
@given(chance=chances, times=st.integers(1, 3))
def test_one_value_is_another(root: Path, format: str, chance: random.Random, times: int) -> None:
    content = {}
    for name, value in documents(format, GOOD).items():
        changed: Any = value
        for _ in range(times):
            changed = damage.mutated(changed, chance)
        content[name] = encoded(changed)
    put(root, content)
    check(root, format)


@pytest.mark.parametrize("format", FORMATS)
@fuzz(40)
@given(chance=chances, how=st.sampled_from(sorted(damage.BYTES)))
def test_bytes_that_came_otherwise(root: Path, format: str, chance: random.Random, how: str) -> None:
    content = {name: encoded(value) for name, value in documents(format, GOOD).items()}
    victim = chance.choice(sorted(content))
    content[victim] = damage.BYTES[how](content[victim], chance)
    put(root, content)
    check(root, format)


@pytest.mark.parametrize("format", FORMATS)
@fuzz(15)
@given(data=st.binary(max_size=200))
def test_anything_at_all(root: Path, format: str, data: bytes) -> None:
    put(root, dict.fromkeys(documents(format, GOOD), data))
    check(root, format)
