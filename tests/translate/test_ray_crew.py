"""How workers that die are replaced, without a cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import scalabel

from nightaug.data.formats import open_dataset
from nightaug.errors import NightaugError
from nightaug.translate import ray_pipeline
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.ray_pipeline import Shares
from nightaug.translate.shipping import Shipped
from nightaug.translate.translators import Translator

THIRD = Translator("third", "day2night", None, False, lambda image, boxes, seed: image // 3)
SHIPPED = Shipped(lambda source: THIRD, "third", {}, "third")


class Handle:
    """Of a worker; its calls end when somebody wants their result."""

    dead = False


class FakeRay:
    """Workers in this process; one that is given certain images dies with all it has in hand.

    Attributes:
        alive, most: workers now, and the most there were at once.
    """

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

        class OutOfMemoryError(RayError): ...

    def __init__(self, deadly: set[str]) -> None:
        self.deadly, self.alive, self.most = deadly, 0, 0

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=partial(self._hire, kind)))

    def _hire(self, kind: type, *arguments: Any) -> Any:
        self.alive += 1
        self.most = max(self.most, self.alive)
        worker, handle = kind(*arguments), Handle()
        for name in ("start", "run", "stop"):
            call = partial(self._call, handle, getattr(worker, name))
            setattr(handle, name, SimpleNamespace(remote=call))
        return handle

    def _call(self, handle: Any, function: Any, *arguments: Any) -> Any:
        def result() -> Any:
            if not handle.dead and arguments and self.deadly & {item.output for item in arguments[0]}:
                handle.dead = True
                self.alive -= 1
            if handle.dead:
                raise self.exceptions.OutOfMemoryError("killed by the memory monitor\nmuch more")
            return function(*arguments)

        return result

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return calls[:1], calls[1:]

    def get(self, call: Any) -> Any:
        return call()

    def kill(self, handle: Any) -> None:
        self.alive -= not handle.dead
        handle.dead = True


@pytest.mark.parametrize("workers", [1, 2])
def test_images_no_worker_survives_are_named_and_no_worker_is_replaced_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Ray's memory monitor ends them with an error of its own; a re-run finds nothing but such images."""
    monkeypatch.setattr(ray_pipeline, "CHUNK", 3)
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"] * 14), "day2night")
    deadly = {item.output for item in plan.items[1:]}
    for _ in range(2):
        ray = FakeRay(deadly)
        engine = partial(ray_pipeline._run, ray, SHIPPED, Shares(workers, 1, 0.0))
        result = translate(plan, THIRD, tmp_path / "out", engine=engine)
        assert set(result.failed) == deadly
        assert set(result.failed.values()) == {"a worker died with it 3 times (killed by the memory monitor)"}
        assert ray.most == workers
    assert result.present == 1
    assert len(open_dataset(tmp_path / "out").frames()) == 1


def test_workers_that_die_of_every_image_are_not_replaced_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pipeline, "CHUNK", 3)
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"] * 60), "day2night")
    ray = FakeRay({item.output for item in plan.items})
    engine = partial(ray_pipeline._run, ray, SHIPPED, Shares(1, 1, 0.0))
    with pytest.raises(NightaugError, match="workers die one after the other"):
        translate(plan, THIRD, tmp_path / "out", engine=engine)
    assert ray.alive == 0
