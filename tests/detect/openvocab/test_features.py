from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openvocab_toys import street_frames, write_run

from nightaug.detect.checkpoint import load_detector
from nightaug.detect.dataset import StillImages
from nightaug.detect.openvocab import features
from nightaug.detect.openvocab.features import Chosen, GrowingArrays, columns, take_features
from nightaug.errors import CheckpointError
from nightaug.runs import StopRequest

KINDS: Any = {"a": ("<f2", (3,)), "b": ("<i4", ())}


def add(arrays: GrowingArrays, count: int, value: float) -> None:
    arrays.append(1, a=np.full((count, 3), value), b=np.full(count, value))


def test_rows_come_back_mapped(tmp_path: Path) -> None:
    arrays = GrowingArrays(tmp_path, KINDS, {})
    assert arrays.read("a").shape == (0, 3)
    add(arrays, 2, 1)
    add(arrays, 0, 2)
    add(arrays, 1, 3)
    again = GrowingArrays(tmp_path, KINDS, {})
    assert (again.items, again.rows) == (3, 3)
    assert isinstance(again.read("a"), np.memmap)
    assert again.read("a").tolist() == [[1] * 3, [1] * 3, [3] * 3]
    assert again.read("b").tolist() == [1, 1, 3]


def test_what_a_kill_left_behind_is_cut_off_and_what_is_of_another_run_thrown_away(tmp_path: Path) -> None:
    arrays = GrowingArrays(tmp_path, KINDS, {"run": 1})
    add(arrays, 2, 1)
    with open(tmp_path / "a.bin", "ab") as stream:  # killed after one column
        stream.write(b"half a row")
    arrays = GrowingArrays(tmp_path, KINDS, {"run": 1})
    add(arrays, 1, 5)
    assert arrays.read("a")[:, 0].tolist() == [1, 1, 5]
    assert GrowingArrays(tmp_path, KINDS, {"run": 2}).rows == 0
    assert GrowingArrays(tmp_path, KINDS, {"run": 2}).read("b").shape == (0,)


def test_a_shortened_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    add(GrowingArrays(tmp_path, KINDS, {}), 4, 1)
    (tmp_path / "b.bin").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match=r"b\.bin is shorter"):
        GrowingArrays(tmp_path, KINDS, {})


def test_features_are_the_detectors_own_and_an_interrupted_run_gives_the_same(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Machines with fast bf16 would use it, and what they are held against is computed in fp32.
    monkeypatch.setattr(features, "resolve_precision", lambda precision, cpu: "fp32")
    frames = street_frames(streets)[:5]
    write_run(tmp_path / "run", "softmax")
    detector = load_detector(tmp_path / "run")
    paths = [frame.path for frame in frames]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    paths[2] = damaged

    def choose(number: int, own: Any) -> Chosen:
        assert (len(own) > 0) == proposing
        assert paths[number] != damaged
        boxes = np.array([box.xyxy for box in frames[number].boxes])[: number + 1]
        return Chosen(boxes, np.arange(len(boxes)), np.full((len(boxes), 4), number), number % 2)

    def take(folder: str, stop: StopRequest | None = None) -> tuple[GrowingArrays, int | None]:
        arrays = GrowingArrays(tmp_path / folder, columns(32, 4, "fp32"), {})
        options: Any = {"propose": proposing, "batch": 2, "stop": stop}
        return arrays, take_features(detector, paths, choose, arrays, **options)

    proposing = True
    whole, unreadable = take("whole")
    assert unreadable == 1
    assert whole.read("image").tolist() == [0, 1, 1, 3, 3, 4, 4]
    assert whole.read("label").tolist() == [0, 0, 1, 0, 1, 0, 1]
    assert whole.read("domain").tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert whole.read("clip")[:, 0].tolist() == [0, 1, 1, 3, 3, 4, 4]
    one = StillImages([paths[4]], detector.width, detector.height)[0]
    boxes = torch.from_numpy(one.letterbox.to_network(np.array([box.xyxy for box in frames[4].boxes]))).float()
    with torch.inference_mode():
        direct = detector.region_features(detector(one.image[None]), [boxes]).numpy()
    assert np.allclose(whole.read("features")[-2:], direct, atol=1e-4)

    proposing, stop = False, StopRequest()
    stop.requested = True
    part, answer = take("part", stop)
    assert answer is None
    assert part.items == 2
    part, _ = take("part")
    for name in ("features", "label", "image", "clip", "domain"):
        assert np.array_equal(part.read(name), whole.read(name)), name


def test_half_precision_is_finite(tmp_path: Path) -> None:
    assert np.dtype(columns(5, None)["features"][0]) == np.float16
    assert "clip" not in columns(5, None)
