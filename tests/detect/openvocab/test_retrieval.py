from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nightaug.detect.openvocab.retrieval import best_proposals
from nightaug.errors import ConfigError


def images(count: int, seed: int = 0, width: int = 6) -> list[tuple[Path, Any, Any, Any]]:
    """Images of 0 to 9 proposals; some of them without an embedding."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        size = int(rng.integers(0, 10))
        clip = rng.normal(size=(size, width))
        clip /= np.linalg.norm(clip, axis=1, keepdims=True)
        clip[rng.random(size) < 0.1] = 0
        boxes = rng.uniform(0, 50, (size, 4)).astype(np.float32)
        made.append((Path(f"{number}.png"), boxes, rng.random(size).astype(np.float32), clip.astype(np.float16)))
    return made


def texts(count: int, width: int = 6) -> Any:
    rows = np.random.default_rng(99).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_the_best_are_those_of_a_full_sort(block: int) -> None:
    world, text = images(40), texts(3)
    found = best_proposals(iter(world), text, most=8, objectness=0.3, block=block)
    for number, name in enumerate(text):
        naive = []
        for path, boxes, scores, clip in world:
            for box, score, row in zip(boxes, scores, clip.astype(np.float32), strict=True):
                if score >= 0.3 and row.any():
                    naive.append((float(row @ name / np.linalg.norm(row)), path, tuple(box.tolist()), float(score)))
        naive.sort(key=lambda each: -each[0])
        assert [(one.path, one.box, one.objectness) for one in found[number]] == [each[1:] for each in naive[:8]]
        assert [one.cosine for one in found[number]] == pytest.approx([each[0] for each in naive[:8]], rel=1e-5)


def test_of_equal_ones_the_first_is_taken_whatever_the_blocks() -> None:
    box, clip = np.zeros((3, 4), np.float32), np.tile(np.eye(1, 6, dtype=np.float16), (3, 1))
    world = [(Path(f"{n}.png"), box, np.ones(3, np.float32), clip) for n in range(4)]
    for block in (1, 5, 100):
        (found,) = best_proposals(world, np.eye(1, 6, dtype=np.float32), most=4, block=block)
        assert [one.path.stem for one in found] == ["0", "0", "0", "1"]


def test_few_proposals_and_none() -> None:
    text = texts(2)
    assert best_proposals([], text) == [[], []]
    assert best_proposals(images(5), text, objectness=1.1) == [[], []]
    (first, _) = best_proposals(images(5), text, most=1000, objectness=0)
    assert len(first) == sum(int(clip.any(axis=1).sum()) for *_, clip in images(5))


class Descent:
    """In place of pynndescent, which compiles for minutes: exact, but for one neighbour that it does not find."""

    def __init__(self, data: Any, metric: str, random_state: int) -> None:
        assert metric == "cosine"
        self.data = data

    def query(self, names: Any, k: int) -> tuple[Any, None]:
        order = np.argsort(-(names @ self.data.T), axis=1)[:, :k].copy()
        order[:, 3] = -1
        return order[:, ::-1], None


def test_approximate_search_is_asked_over_a_size_and_gives_the_same_but_what_it_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=Descent))
    world, text = images(60), texts(3)
    exact = best_proposals(world, text, most=10)
    near = best_proposals(world, text, most=10, approximate_over=20)
    for own, other in zip(exact, near, strict=True):
        del own[3]
        assert [one[:3] for one in other] == [one[:3] for one in own]
        assert [one.cosine for one in other] == pytest.approx([one.cosine for one in own])
    assert best_proposals(world, text, most=10, approximate_over=10**6) == best_proposals(world, text, most=10)


def test_without_pynndescent_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(ConfigError, match="approximate_over"):
        best_proposals(images(20), texts(1), approximate_over=1)
