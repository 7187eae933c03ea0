from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import scalabel

from nightaug.cyclegan.networks import ResnetGenerator, initialize
from nightaug.data.formats import open_dataset
from nightaug.errors import CheckpointError, ConfigError, NightaugError
from nightaug.images import ImageArray, read_image
from nightaug.translate import ray_pipeline
from nightaug.translate.output import FolderOutput, FolderStore, StorageOutput
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan, read_manifest
from nightaug.translate.ray_pipeline import Shares, divide, ray_engine
from nightaug.translate.shipping import Shipped, ship
from nightaug.translate.storage import Storage, list_into
from nightaug.translate.translators import RELIGHT, Translator


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the lock and what a killed process left under names of its own."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def test_one_worker_a_gpu_or_one_for_every_four_cores() -> None:
    assert divide([(16, 0), (10, 0)], None, cpu=False) == Shares(6, 4, 0.0)
    assert divide([(2, 0)], None, cpu=False) == Shares(1, 2, 0.0)
    assert divide([(2, 0)], 2, cpu=False) == Shares(2, 1, 0.0)
    assert divide([(64, 8), (8, 0)], None, cpu=False) == Shares(8, 8, 1.0)
    assert divide([(64, 8)], 16, cpu=False) == Shares(16, 4, 0.5)
    assert divide([(64, 8)], None, cpu=True) == Shares(16, 4, 0.0)
    assert divide([], 4, cpu=False) == Shares(4, 1, 0.0)  # a cluster that grows when asked


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = ray_engine(Shipped(Translator.load, RELIGHT, {}, RELIGHT))
    with pytest.raises(ConfigError, match=r'pip install "nightaug\[ray\]"'):
        engine.__enter__()


def test_weights_travel_with_the_translator(tmp_path: Path) -> None:
    network = ResnetGenerator(4, 1)
    initialize(network, torch_generator())
    weights = tmp_path / "generator.pth"
    save(network, weights)
    load = partial(Translator.load, device="cpu", precision="fp32")
    here = load(str(weights))
    shipped = ship(load, str(weights), here.name)
    weights.unlink()
    there = shipped.unpack()
    assert (there.name, there.sha, there.settings) == (here.name, here.sha, here.settings)
    image = np.full((32, 32, 3), 90, np.uint8)
    assert np.array_equal(there(image), here(image))
    for name in ("night.xml", "night.bin"):
        (tmp_path / name).write_text(name)
    assert list(ship(load, str(tmp_path / "night.xml"), "night").files) == ["night.xml", "night.bin"]
    with pytest.raises(CheckpointError, match="no such file"):
        ship(load, str(weights), "gone")


def torch_generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def save(network: Any, path: Path) -> None:
    import torch

    torch.save(network.state_dict(), path)


def test_errors_of_workers_become_our_own() -> None:
    damaged = CheckpointError("x: damaged")
    assert ray_pipeline._plain(SimpleNamespace(cause=damaged)) is damaged
    bug = ray_pipeline._plain(SimpleNamespace(cause=ZeroDivisionError("division by zero")))
    assert isinstance(bug, NightaugError)
    assert str(bug) == "a worker failed: ZeroDivisionError: division by zero"


def test_suspects_are_tried_alone_then_one_by_one() -> None:
    items: list[Any] = ["a", "b"]
    chunk = ray_pipeline._Chunk(items)
    assert ray_pipeline._suspects(chunk) == [chunk]
    assert chunk.alone
    singles = ray_pipeline._suspects(chunk)
    assert [(single.items, single.alone, single.deaths) for single in singles] == [(["a"], True, 0), (["b"], True, 0)]
    for deaths in (1, 2):
        assert ray_pipeline._suspects(singles[0]) == [singles[0]]
        assert singles[0].deaths == deaths
    assert ray_pipeline._suspects(singles[0]) == []
    assert ray_pipeline._suspects(ray_pipeline._Chunk([])) == []  # it died while it was starting


# -- on a cluster of two nodes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    # Workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A dead node is noticed after two seconds instead of half a minute.
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False, "_system_config": checks})
    second = made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made, second
    ray.shutdown()
    made.shutdown()


def third(image: ImageArray, boxes: object, seed: int) -> ImageArray:
    return (image // 3).astype(np.uint8)


def slow(image: ImageArray, boxes: object, seed: int) -> ImageArray:
    time.sleep(0.05)
    return third(image, boxes, seed)


def deadly(image: ImageArray, boxes: object, seed: int) -> ImageArray:
    if int(image[0, 0, 0]) == 255 and int(image[0, 0, 1]) == 0:
        os._exit(1)
    return third(image, boxes, seed)


def loader(function: Any = third, sha: str | None = None) -> Any:
    return lambda source: Translator("third", "day2night", sha, False, function)


def shipped(load: Any) -> Shipped:
    return Shipped(load, "third", {}, "third")


def here(function: Any = third) -> Translator:
    return Translator("third", "day2night", None, False, function)


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pipeline, "CHUNK", 3)


def test_the_folder_is_that_of_one_machine(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with relative paths: workers have the working folder of whoever started the cluster."""
    small_chunks(monkeypatch)
    scalabel(tmp_path / "in", ["daytime"] * 10)
    monkeypatch.chdir(tmp_path)
    plan = make_plan("in", "day2night")
    (tmp_path / "in/images/100k/train/0004-a.jpg").write_bytes(b"broken")
    local = translate(plan, here(), "local")
    seen: list[int] = []
    with ray_engine(shipped(loader())) as engine:
        result = translate(plan, here(), "ray", engine=engine, progress=lambda done, note: seen.append(done))
        assert result.written == 9
        assert result.failed == local.failed
        assert list(result.failed) == ["images/100k/train/0004-a.jpg"]
        assert seen == list(range(1, 11))
        assert files(tmp_path / "ray") == files(tmp_path / "local")
    # Either engine goes on where the other stopped: only what could not be made is tried.
    again = translate(plan, here(), tmp_path / "ray")
    assert (again.written, again.present, len(again.failed)) == (0, 9, 1)


def test_from_and_to_storage(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = scalabel(tmp_path / "in", ["daytime"] * 3)
    (tmp_path / "listing").mkdir()
    place, origin = list_into(Storage(f"file://{root}"), tmp_path / "listing")
    plan = make_plan(place, "day2night")._replace(origin=origin)
    with ray_engine(shipped(loader()), workers=1) as engine:
        result = translate(plan, here(), StorageOutput(f"file://{tmp_path}/ray"), engine=engine)
    assert result.written == 3
    translate(plan, here(), tmp_path / "local")
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_ctrl_c_keeps_what_is_done_and_resumes_to_the_same_result(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"] * 40), "day2night")

    def interrupt(done: int, note: str) -> None:
        if done == 5:
            os.kill(os.getpid(), 2)

    with ray_engine(shipped(loader(slow)), workers=1) as engine:
        result = translate(plan, here(), tmp_path / "out", engine=engine, progress=interrupt)
    assert result.stopped
    # What was in hand is ended, nothing else is begun.
    assert 5 <= result.written <= 5 + ray_pipeline._IN_FLIGHT * 3
    assert len(open_dataset(tmp_path / "out").frames()) == result.written
    assert len(files(tmp_path / "out")) == result.written + 3  # no image without a row
    again = translate(plan, here(), tmp_path / "out")
    assert again.present == result.written
    translate(plan, here(), tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_an_image_that_kills_its_worker_is_named_and_the_rest_is_done(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightaug.images import write_image

    monkeypatch.setattr(ray_pipeline, "CHUNK", 1)
    monkeypatch.setattr(ray_pipeline, "_DEATHS", 2)
    root = scalabel(tmp_path / "in", ["daytime"] * 4, "png")
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 255
    write_image(root / "images/100k/train/0001-a.png", red)
    with ray_engine(shipped(loader(deadly)), workers=1) as engine:
        result = translate(make_plan(root, "day2night"), here(), tmp_path / "out", engine=engine)
    assert result.written == 3
    assert list(result.failed) == ["images/100k/train/0001-a.png"]
    assert "a worker died with it 2 times" in result.failed["images/100k/train/0001-a.png"]


class FullStore(FolderStore):
    def write(self, name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_worker_comes_upon_is_said_in_one_line(cluster: Any, tmp_path: Path) -> None:
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"] * 2), "day2night")
    output = FolderOutput(tmp_path / "full")
    output.store = FullStore(output.folder)
    with (
        ray_engine(shipped(loader()), workers=1) as engine,
        pytest.raises(NightaugError, match="the disk is full; images done"),
    ):
        translate(plan, here(), output, engine=engine)

    with (
        ray_engine(shipped(loader(sha="other")), workers=1) as engine,
        pytest.raises(ConfigError, match="a worker's translator has weights other, here they are None"),
    ):
        translate(plan, here(), tmp_path / "other", engine=engine)


def test_a_cluster_without_room_is_said_so(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pipeline, "START_SECONDS", 0.5)
    monkeypatch.setattr(ray_pipeline, "divide", lambda nodes, workers, cpu: Shares(1, 1000, 0.0))
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"]), "day2night")
    with ray_engine(shipped(loader())) as engine, pytest.raises(NightaugError, match="1000 cores and 0 GPUs"):
        translate(plan, here(), tmp_path / "out", engine=engine)


def test_a_node_killed_half_way_costs_no_file(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    made, second = cluster
    plan = make_plan(scalabel(tmp_path / "in", ["daytime"] * 40), "day2night")
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    rows: list[int] = []

    def together(image: ImageArray, boxes: object, seed: int) -> ImageArray:
        """Goes on when both nodes are at work."""
        import ray

        (nodes / ray.get_runtime_context().get_node_id()).touch()
        while len(list(nodes.iterdir())) < 2:
            time.sleep(0.01)
        return slow(image, boxes, seed)

    def kill(done: int, note: str) -> None:
        rows.append(done)
        if done == 12:
            made.remove_node(second, allow_graceful=False)

    with ray_engine(shipped(loader(together)), workers=2) as engine:
        result = translate(plan, here(), tmp_path / "out", engine=engine, progress=kill)
    assert second.node_id in {path.name for path in nodes.iterdir()}
    assert (result.written, result.failed) == (40, {})
    assert rows == list(range(1, 41))  # each reported once
    outputs = [row.output for row in read_manifest(tmp_path / "out")]
    assert len(outputs) == len(set(outputs)) == 40
    for path in (tmp_path / "out").rglob("*.jpg"):
        read_image(path)
    translate(plan, here(), tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_an_address_where_nobody_answers_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"nobody answers at {address}"):
        ray_pipeline._check_answers(address)
