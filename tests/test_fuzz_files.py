"""Images, settings, weights, states and manifests that came damaged: nothing but our own errors comes out, soon."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import fuzz, promptly
from helpers import picture
from hypothesis import given
from hypothesis import strategies as st

from nightaug.config import Settings, build, load_yaml
from nightaug.cyclegan.checkpoint import read_generator, read_night_boxes, read_relit_strength, write_translator
from nightaug.cyclegan.networks import ResnetGenerator
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.detect.checkpoint import read_facts
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, ConfigError, DatasetError, ImageError, NightaugError
from nightaug.images import ImageFormat, encode_image, image_size, read_image
from nightaug.pickles import called_names, load_torch
from nightaug.runs import RunFolder, load_weights, read_metadata
from nightaug.translate.plan import ManifestRow, manifest_line, read_manifest

# Below fuzzing, which says where this lies.
from fault_campaign import damage  # isort: skip

#: The command line turns these off, too.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
chances = st.randoms(use_true_random=False)
ways = st.sampled_from(sorted(damage.BYTES))
FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp")
PICTURES = {format: encode_image(picture(width=40, height=30), format, description="x") for format in FORMATS}


def only(kind: type[NightaugError], call: Callable[[], Any]) -> Any:
    """What a reader gives, None where it refuses with an error of that kind."""
    try:
        with promptly():
            return call()
    except kind:
        return None


@pytest.mark.parametrize("format", FORMATS)
@fuzz(60)
@given(chance=chances, way=ways)
def test_images(tmp_path: Path, format: ImageFormat, chance: random.Random, way: str) -> None:
    path = tmp_path / f"x.{format}"
    path.write_bytes(damage.BYTES[way](PICTURES[format], chance))
    image = only(ImageError, lambda: read_image(path, max_pixels=4_000_000))
    only(ImageError, lambda: image_size(path))
    if image is not None:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


SETTINGS: list[type[Settings]] = [TranslatorSettings, DetectorSettings]


@pytest.mark.parametrize("kind", SETTINGS)
@fuzz(40)
@given(chance=chances, way=st.sampled_from(["values", *sorted(damage.BYTES)]))
def test_settings(tmp_path: Path, kind: type[Settings], chance: random.Random, way: str) -> None:
    whole = kind().model_dump(mode="json")
    path = tmp_path / "x.yaml"
    if way == "values":
        path.write_bytes(json.dumps(damage.mutated(whole, chance)).encode("utf-8", "replace"))
    else:
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in whole.items())
        path.write_bytes(damage.BYTES[way](text.encode(), chance))
    found = only(ConfigError, lambda: load_yaml(path))
    if found is not None:
        only(ConfigError, lambda: build(kind, found))


class _Pair:
    def __init__(self) -> None:
        self.A2B: ResnetGenerator = ResnetGenerator(width=4, blocks=1)
        self.B2A: ResnetGenerator | None = None


@fuzz(60)
@given(chance=chances, way=st.sampled_from(["facts", "header", *sorted(damage.BYTES)]))
def test_weights(tmp_path: Path, chance: random.Random, way: str) -> None:
    good, path = tmp_path / "good.safetensors", tmp_path / "x.safetensors"
    if not good.exists():
        write_translator(good, _Pair(), TranslatorSettings(width=4, blocks=1), 3, "0")
    data = good.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if way in damage.BYTES:
        data = damage.BYTES[way](data, chance)
    else:
        header = json.loads(data[8 : 8 + size])
        if way == "facts":
            facts = damage.mutated(json.loads(header["__metadata__"]["nightaug"]), chance)
            header["__metadata__"]["nightaug"] = json.dumps(facts)
        else:
            header = damage.mutated(header, chance)
        text = json.dumps(header).encode("utf-8", "replace")
        data = len(text).to_bytes(8, "little") + text + data[8 + size :]
    path.write_bytes(data)
    for call in (load_weights, read_metadata, read_night_boxes, read_relit_strength, read_facts):
        only(CheckpointError, lambda call=call: call(path))
    only(CheckpointError, lambda: read_generator(path, "day2night"))


@fuzz(40)
@given(chance=chances, way=ways)
def test_pickles_and_states(tmp_path: Path, chance: random.Random, way: str) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(2, 0, {"x": torch.arange(4.0), "name": "a", "list": [1, 2.0, None]})
    folder.commit_state(2)
    for path in (tmp_path / "state" / "last.json", folder.state_folder(2) / "rank-0.pt"):
        path.write_bytes(damage.BYTES[way](path.read_bytes(), chance))
    assert folder.latest_state() in (None, *range(100))
    only(CheckpointError, lambda: load_torch(folder.state_folder(2) / "rank-0.pt"))
    called_names(folder.state_folder(2) / "rank-0.pt")


ROWS = [
    ManifestRow(
        source=f"{at}.jpg", output=f"{at}.jpg", sha256="0" * 64, translator="relight", checkpoint_sha=None,
        direction="day2night", seed=at, source_timeofday=None, inputs=at,
    )
    for at in range(3)
]  # fmt: skip


@fuzz(60)
@given(chance=chances, way=st.sampled_from(["values", *sorted(damage.BYTES)]))
def test_manifests(tmp_path: Path, chance: random.Random, way: str) -> None:
    lines = [manifest_line(row) for row in ROWS]
    if way == "values":
        lines[1] = json.dumps(damage.mutated(json.loads(lines[1]), chance)).encode() + b"\n"
    data = b"".join(lines)
    (tmp_path / "manifest.jsonl").write_bytes(damage.BYTES[way](data, chance) if way in damage.BYTES else data)
    for row in only(DatasetError, lambda: list(read_manifest(tmp_path))) or []:
        assert isinstance(row, ManifestRow)


@fuzz(30)
@given(chance=chances, way=ways)
def test_metrics(tmp_path: Path, chance: random.Random, way: str) -> None:
    folder = RunFolder(tmp_path)
    text = "".join(json.dumps({"step": step, "loss": 1.5 / step}) + "\n" for step in range(1, 5))
    folder.metrics_path.write_bytes(damage.BYTES[way](text.encode(), chance))
    with promptly():
        folder.cut_metrics(2)
    assert all(row["step"] <= 2 for row in folder.read_metrics())
