"""Proposals, their embeddings, and the folder they are kept in."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from tiny_openvocab import EMBEDDING, rcnn

from nightaug.clip.crops import cut, grown
from nightaug.clip.encoder import load_clip
from nightaug.data.frames import Box, Frame
from nightaug.detect.detectors import Forward, Found
from nightaug.detect.inference import detect_images
from nightaug.detect.openvocab import proposals as proposals_module
from nightaug.detect.openvocab.embed import run_embed
from nightaug.detect.openvocab.proposals import Boxes, ProposalDetector, collect, labelled_boxes, tidy
from nightaug.detect.openvocab.store import ProposalStore
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted
from nightaug.images import read_image, write_image
from nightaug.runs import StopRequest


def embed(streets: Path, out: Path, clip: Path, **options: Any) -> ProposalStore:
    options = {"proposals": "labels", "device": "cpu", "precision": "fp32", "workers": 0, **options}
    store = run_embed(streets, out, clip=str(clip), **options)
    assert store is not None
    return store


# -- proposals -------------------------------------------------------------------------------------------------------


def test_tidy_drops_small_and_double_boxes_and_keeps_the_best() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 3, 9], [5, 5, 20, 20], [0, 0, 9.001, 9], [30, 30, 50, 50]], float)
    found = tidy(boxes, np.array([0.2, 0.9, 0.3, 0.7, 0.1]), min_side=4)
    assert found.boxes.tolist() == [[0, 0, 9, 9], [5, 5, 20, 20], [30, 30, 50, 50]]
    assert found.scores.tolist() == pytest.approx([0.7, 0.3, 0.1]), "of equal boxes the surer one"
    assert tidy(boxes, np.array([0.2, 0.9, 0.3, 0.7, 0.1]), 4, most=2).boxes.tolist() == [[0, 0, 9, 9], [5, 5, 20, 20]]
    assert len(tidy(np.zeros((0, 4)), np.zeros(0), 4).boxes) == 0
    assert len(tidy(np.full((1, 4), np.nan), np.ones(1), 4).boxes) == 0


def test_labels_as_proposals(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0))
    boxes = [
        Box(-5, 10, 30, 40, "car"),
        Box(1, 1, 3, 60, "bus"),
        Box(0, 0, 96, 64, "car", crowd=True),
        Box(9, 9, 30, 30, "bus"),
    ]
    frame = Frame("a.png", boxes, 96, 64, path=tmp_path / "a.png")
    found = labelled_boxes(frame, 4)
    assert found.boxes.tolist() == [[0, 10, 30, 40], [9, 9, 30, 30]]
    assert found.scores.tolist() == [1, 1]
    assert labelled_boxes(frame, 4, frozenset({"bus"})).boxes.tolist() == [[9, 9, 30, 30]]
    frame.path = tmp_path / "absent.png"
    assert labelled_boxes(frame, 4).unreadable


class _Fixed(ProposalDetector):
    """Says the same of every image."""

    def run(self, images: torch.Tensor) -> Forward:
        return Forward({}, [images.float()], {})


def _fixed(found: Found, classes: tuple[str, ...] = ("object",), **options: Any) -> _Fixed:
    inner = rcnn(classes)
    inner.found = lambda forward: [found] * len(forward.pyramid[0])  # type: ignore[method-assign]
    inner.proposals = lambda forward: [(found.boxes + 1, found.scores)] * len(forward.pyramid[0])  # type: ignore
    return _Fixed(inner, **options)


def test_a_detectors_boxes_are_merged_over_classes_and_mapped_back(tmp_path: Path) -> None:
    # The image is 256x64, the network's input 128x64: scale 0.5, 16 rows of padding above and below.
    write_image(tmp_path / "wide.png", picture(0, 256, 64))
    boxes = torch.tensor([[0.0, 16, 20, 36], [1, 16, 21, 36], [100, 40, 140, 60], [50, 0, 60, 15], [50, 20, 51, 40]])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.8, 0.7])
    found = Found(boxes, scores, torch.tensor([0, 1, 0, 0, 0]))
    detector = _fixed(found, min_score=0.3, overlap=0.7, most=3)
    (seen,) = proposals_module.detected_boxes(detector, [tmp_path / "wide.png"], 4)
    # The weaker of two overlapping boxes went, whatever their classes; one lies in the padding, one is too narrow.
    assert seen.boxes.tolist() == [[2, 0, 42, 40]]
    assert seen.scores.tolist() == pytest.approx([0.9])
    detector = _fixed(found, min_score=0.3, overlap=0.7, most=9)
    (seen,) = proposals_module.detected_boxes(detector, [tmp_path / "wide.png"], 2)
    assert seen.boxes.tolist() == [[2, 0, 42, 40], [100, 8, 102, 48], [200, 48, 256, 64]], "cut to the image"
    assert len(next(proposals_module.detected_boxes(_fixed(found, min_score=1), [tmp_path / "wide.png"], 2)).boxes) == 0


def test_a_detector_of_classes_gives_what_its_first_stage_proposes() -> None:
    found = Found(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0.5]), torch.tensor([0]))
    several = _fixed(found, ("car", "bus"))
    assert several.stage == "proposals"
    assert several.found(several.run(torch.zeros(1, 3, 64, 128)))[0].boxes.tolist() == [[1, 1, 21, 21]]
    assert _fixed(found).stage == "detections"


def test_an_untrained_detector_proposes_as_many_as_wanted(streets: Path) -> None:
    detector = ProposalDetector(rcnn(class_agnostic=True), 0.0, 0.9, 7)
    paths = sorted((streets / "train" / "A").glob("*.png"))[:3]
    seen = list(detect_images(detector, [*paths, streets / "absent.png"], batch=2))
    assert [each.unreadable for each in seen] == [False, False, False, True]
    for each in seen[:3]:
        assert 0 < len(each.boxes) <= 7
        assert (np.diff(each.scores) <= 0).all()
    assert not len(seen[3].boxes)


# -- all images ------------------------------------------------------------------------------------------------------


def _look(numbers: Sequence[int]) -> Iterator[Boxes]:
    for number in numbers:
        boxes = np.arange(4 * (number % 3), dtype=np.float32).reshape(-1, 4)
        yield Boxes(boxes, np.full(len(boxes), number / 10, np.float32), number == 4)


def _arrays(out: Path) -> list[Any]:
    return [np.load(out / name).tolist() for name in ("boxes.npy", "objectness.npy", "offsets.npy")]


def test_collecting_can_be_killed_and_gone_on_with(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    whole = collect(tmp_path / "whole", names, _look, StopRequest(), part=4)
    assert whole == (10, 1)
    assert _arrays(tmp_path / "whole")[2] == [0, 0, 1, 3, 3, 4, 6, 6, 7, 9, 9]

    asked: list[int] = []

    def dies(numbers: Sequence[int]) -> Iterator[Boxes]:
        asked.extend(numbers)
        if 4 in numbers:
            raise OSError("killed")
        return _look(numbers)

    with pytest.raises(OSError, match="killed"):
        collect(tmp_path / "killed", names, dies, StopRequest(), part=4)
    (tmp_path / "killed" / "parts" / "000001.npz").write_bytes(b"PK half")  # as a file system might leave it
    asked.clear()

    def goes_on(numbers: Sequence[int]) -> Iterator[Boxes]:
        asked.extend(numbers)
        return _look(numbers)

    collect(tmp_path / "killed", names, goes_on, StopRequest(), part=4)
    assert asked == [4, 5, 6, 7, 8, 9], "the first part was kept"
    assert _arrays(tmp_path / "killed") == _arrays(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "parts").iterdir())
    assert collect(tmp_path / "killed", names, dies, StopRequest(), part=4) == (0, 0), "nothing is left to do"


def test_several_at_once_divide_the_work(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(40)]
    asked: list[int] = []

    def slowly(numbers: Sequence[int]) -> Iterator[Boxes]:
        asked.extend(numbers)
        time.sleep(0.02)
        return _look(numbers)

    with ThreadPoolExecutor(3) as pool:  # a lock is an open file's, so that threads are as good as processes
        done = list(pool.map(lambda _: collect(tmp_path, names, slowly, StopRequest(), part=2), range(3)))
    assert sorted(asked) == list(range(40)), "every image once"
    assert sum(each.images for each in done) == 40
    assert len(_arrays(tmp_path)[2]) == 41


def test_ctrl_c_gives_up_the_part_at_hand(tmp_path: Path) -> None:
    stop = StopRequest()

    def interrupted(numbers: Sequence[int]) -> Iterator[Boxes]:
        stop.requested = 4 in numbers
        return _look(numbers)

    names = [f"{number}.png" for number in range(10)]
    with pytest.raises(Interrupted, match="run the same command again"):
        collect(tmp_path, names, interrupted, stop, part=4)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["000000.npz"]


# -- the store -------------------------------------------------------------------------------------------------------


def test_labels_embedded_and_read(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    lines: list[str] = []
    store = embed(streets, tmp_path / "emb", clip_folder, data=["dataset:train:A"], say=lines.append)
    assert len(store) == 4
    assert store.width == EMBEDDING
    assert store.facts["boxes"] == 8
    assert store.facts["stage"] == "labels"
    assert any("estimate:" in line and "MB on disk" in line for line in lines)
    assert any("also of those that shall be unseen" in line for line in lines)
    path = sorted((streets / "train" / "A").glob("*.png"))[2]
    boxes, rows = store.regions(path)
    assert boxes.dtype == np.float32
    assert rows.dtype == np.float16
    assert boxes.shape == (2, 4)
    assert store.scores(path).tolist() == [1, 1]
    # The embedding is normalise(CLIP(crop) + CLIP(1.5x crop)).
    clip = load_clip(str(clip_folder), precision="fp32")
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    crops = [cut(pixels, grown(torch.from_numpy(boxes), factor, 128, 64), clip.size) for factor in (1.0, 1.5)]
    wanted = torch.nn.functional.normalize(sum(clip.embed_images(crop, normalize=False) for crop in crops), dim=1)
    assert np.allclose(rows, wanted.numpy(), atol=5e-4)
    assert store.cache.facts["context"] == 1.5, "a random CLIP hardly sees the difference"


def test_scan_sees_what_regions_says_also_in_another_process(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    store = embed(streets, tmp_path / "emb", clip_folder)
    store.regions(sorted((streets / "train" / "A").glob("*.png"))[0])
    other = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 200_000
    scanned = list(other.scan())
    assert len(scanned) == 8
    for path, boxes, scores, rows in scanned:
        assert path in store
        again, embeddings = store.regions(path)
        assert np.array_equal(boxes, again)
        assert np.array_equal(rows, embeddings)
        assert scores.shape == (len(boxes),)
    assert store.missing([scanned[0][0], "elsewhere.png"]) == ["elsewhere.png"]
    with pytest.raises(DatasetError, match="embed the images you train on"):
        store.regions("elsewhere.png")


def test_a_detectors_proposals_and_an_image_without_any(
    streets: Path, tmp_path: Path, clip_folder: Path, proposer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = proposals_module.detected_boxes

    def first_has_none(*args: Any, **options: Any) -> Iterator[Boxes]:
        for number, found in enumerate(real(*args, **options)):
            yield found if number else Boxes(found.boxes[:0], found.scores[:0])

    monkeypatch.setattr("nightaug.detect.openvocab.embed.detected_boxes", first_has_none)
    lines: list[str] = []
    options: dict[str, Any] = {"proposals": str(proposer), "most": 5, "overlap": 0.9, "say": lines.append}
    store = embed(streets, tmp_path / "emb", clip_folder, **options)
    counts = [len(boxes) for _, boxes, _, _ in store.scan()]
    assert len(counts) == 8, "the image without proposals is kept"
    assert counts[0] == 0
    assert all(0 < count <= 5 for count in counts[1:])
    assert store.facts["most"] == 5
    assert store.facts["measured"]["proposal_seconds_an_image"] > 0
    assert store.facts["bytes"] > sum(counts) * EMBEDDING * 2
    # Called again it does nothing, with another --most it refuses.
    calls: list[Any] = []
    monkeypatch.setattr("nightaug.detect.openvocab.embed.collect", lambda *args: calls.append(args))
    embed(streets, tmp_path / "emb", clip_folder, **options)
    assert not calls
    assert "is finished" in lines[-1]
    with pytest.raises(ConfigError, match="another --most"):
        embed(streets, tmp_path / "emb", clip_folder, **(options | {"most": 6}))


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    lines: list[str] = []
    made = run_embed(
        streets, tmp_path / "emb", proposals="labels", clip=str(clip_folder), classes=["car"], device="cpu",
        dry_run=True, say=lines.append,
    )  # fmt: skip
    assert made is None
    assert not (tmp_path / "emb").exists()
    assert "labelled boxes of car" in lines[0]
    assert "about 1 boxes an image" in lines[1]


def test_killed_while_embedding_the_store_is_not_finished(
    streets: Path, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("nightaug.clip.region_cache.RegionCache.fill", _killed)
        with pytest.raises(KeyboardInterrupt):
            embed(streets, tmp_path / "emb", clip_folder)
    with pytest.raises(CheckpointError, match=r"not finished; run the same nightaug openvocab embed"):
        ProposalStore(tmp_path / "emb")
    monkeypatch.setattr("nightaug.detect.openvocab.embed.labelled_boxes", _never_after_the_estimate())
    assert len(embed(streets, tmp_path / "emb", clip_folder)) == 8


def _killed(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def _never_after_the_estimate() -> Any:
    """The proposals are there: labels are looked at for the estimate alone."""
    calls = iter(range(8))

    def look(*args: Any) -> Boxes:
        next(calls)
        return labelled_boxes(*args)

    return look


def test_damage_is_a_clear_error(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    out = tmp_path / "emb"
    store = embed(streets, out, clip_folder)
    for name in ("offsets.npy", "boxes.npy", "objectness.npy", "images.json"):
        good = (out / name).read_bytes()
        for bad in (b"", good[: len(good) // 2], b"[1, 2]"):
            (out / name).write_bytes(bad)
            with pytest.raises(CheckpointError, match="damaged") as caught:
                ProposalStore(out)
            assert "\n" not in str(caught.value)
        (out / name).write_bytes(good)
    state = json.loads((out / "store.json").read_text())
    (out / "store.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        ProposalStore(out)
    (out / "store.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no embeddings"):
        ProposalStore(out)
    assert len(store) == 8


def test_a_changed_image_has_no_old_embeddings(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    write_image(tmp_path / "data" / "images" / "a.png", picture(1))
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "data" / "labels.json").write_text(json.dumps(document))
    path = tmp_path / "data" / "images" / "a.png"
    os.utime(path, (1_000_000, 1_000_000))
    store = embed(tmp_path / "data", tmp_path / "emb", clip_folder)
    assert len(store.regions(path)[0]) == 1
    write_image(path, picture(2))
    assert len(ProposalStore(tmp_path / "emb").regions(path)[0]) == 0


def test_images_that_have_moved(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    here = sorted((streets / "train" / "A").glob("*.png"))[0]
    store = embed(streets, tmp_path / "emb", clip_folder, data=["dataset:train:A"])
    there = tmp_path / "moved" / "train" / "A" / here.name
    there.parent.mkdir(parents=True)
    shutil.copyfile(here, there)
    moved = ProposalStore(tmp_path / "emb", root=tmp_path / "moved")
    assert here not in moved
    assert np.array_equal(moved.regions(there)[1], store.regions(here)[1])


def test_a_store_whose_images_have_moved_is_told_by_embedding_again(
    streets: Path, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(streets, tmp_path / "first")
    store = embed(tmp_path / "first", tmp_path / "emb", clip_folder)
    assert store.gone() == []
    (tmp_path / "first").rename(tmp_path / "second")
    assert len(ProposalStore(tmp_path / "emb").gone()) == len(store)
    monkeypatch.setattr("nightaug.clip.encoder.Clip.embed_images", None)
    lines: list[str] = []
    store = embed(tmp_path / "second", tmp_path / "emb", clip_folder, say=lines.append)
    assert any("have moved" in line for line in lines)
    assert store.gone() == []
    assert sum(len(rows) for _, _, _, rows in ProposalStore(tmp_path / "emb").scan()) == store.facts["boxes"] == 16


def test_mistakes(streets: Path, tmp_path: Path, clip_folder: Path, proposer: Path) -> None:
    with pytest.raises(ConfigError, match="--classes is for --proposals labels"):
        embed(streets, tmp_path / "emb", clip_folder, proposals=str(proposer), classes=["car"])
    with pytest.raises(DatasetError, match=r"bus: not in the labels .*car, traffic light"):
        embed(streets, tmp_path / "emb", clip_folder, classes=["bus"])
    with pytest.raises(ConfigError, match="--most and --min-side"):
        embed(streets, tmp_path / "emb", clip_folder, most=0)
    with pytest.raises(CheckpointError, match="no such file or run folder"):
        embed(streets, tmp_path / "emb", clip_folder, proposals="absent")
    (tmp_path / "emb").mkdir()
    (tmp_path / "emb" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no embeddings; choose another --out"):
        embed(streets, tmp_path / "emb", clip_folder)
