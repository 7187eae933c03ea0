"""A short slice of the fault campaign (``make faults``), and that it sees what it looks for."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzzing
import pytest
import torch
from helpers import picture

from nightaug.images import encode_image, write_image
from nightaug.runs import lock_folder, save_weights

from fault_campaign import inputs, kills, limits, makers  # isort: skip
from fault_campaign.damage import FORMATS, GOOD_BOXES, Row, documents, encoded  # isort: skip
from fault_campaign.jobs import Job, World  # isort: skip
from fault_campaign.trial import Child, Fault, command, run  # isort: skip
from fault_campaign.whole import contents, differences, litter, torn  # isort: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Nothing in it."""
    return World(tmp_path_factory.mktemp("faults"))


def test_a_short_slice_breaks_no_promise(tmp_path: Path) -> None:
    """In a process of its own: a fork of one with threads, such as this, is another story."""
    command = [sys.executable, str(Path(fuzzing.__file__).parent.parent / "benchmarks" / "faults.py"), "--quick"]
    done = subprocess.run(
        [*command, "--seed", "1", "--out", str(tmp_path / "faults.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())["sections"]
    assert {(row["command"], row["points"], row["good"]) for row in found["kills"]} == {
        ("prepare", 4, True),
        ("translate", 4, True),
    }
    assert {"disk full", "read only", "two at once"} <= {row["kind"] for row in found["limits"]}
    assert all(row["refused"] == row["cases"] for row in found["limits"])
    assert sum(row["cases"] for row in found["inputs"]) >= 20
    table = (tmp_path / "faults.md").read_text()
    assert "| translate | 4 |" in table
    assert table.count("broken promises: 0.") == 3


def test_the_fuzz_tests_fail_the_campaign_however_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(fuzzing.__file__).parent.parent / "benchmarks"))
    # The campaign sets these for its children when it is imported.
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "NO_ALBUMENTATIONS_UPDATE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    faults = importlib.import_module("faults")
    sys.modules.pop("faults")
    ended = SimpleNamespace(returncode=0, stdout="9 passed in 1s", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: ended)
    assert faults.fuzzed(1)["good"]
    for ended.returncode, ended.stdout, ended.stderr, said in (
        (1, "FAILED tests/x.py::test_x\n1 failed", "", "FAILED tests/x.py::test_x"),
        (2, "E  ImportError\nERROR tests/x.py - ImportError\n1 error", "", "ERROR tests/x.py - ImportError"),
        (4, "", "ERROR: file or directory not found: tests/x.py", "exit code 4: ERROR: file or directory not found: "),
        (5, "no tests ran in 0.1s", "", "exit code 5: no tests ran"),
        (-9, "", "", "exit code -9: no output"),
    ):
        row = faults.fuzzed(1)
        assert not row["good"]
        assert [text.startswith(said) for text in faults.complaints(row)] == [True]


# -- and that it would see -----------------------------------------------------------------------------------------


def careless(out: Path, data: bytes) -> Callable[[], int]:
    """A command that writes in place, a state before the image it counts, and starts from its state."""

    def call() -> int:
        out.mkdir(exist_ok=True)
        for number in range(6):
            with open(out / f"{number}.jpg", "wb") as stream:
                for part in range(0, len(data), 100):
                    stream.write(data[part : part + 100])
                    stream.flush()
                    os.utime(out / f"{number}.jpg", (1, 1))  # a moment the hook can strike at
        return 0

    return call


def test_a_command_that_writes_in_place_is_found_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = careless(out, encode_image(picture(), "jpg"))
    job = Job("careless", call, out, lambda folder: len(list(folder.glob("*.jpg"))), contents)
    report = kills.campaign(job, 4, 0, tmp_path / "said")
    assert any("0.jpg" in wrong or ".jpg" in wrong for wrong in report.torn)
    assert not report.good
    assert limits.full_disk(job, 1, 0, tmp_path / "said").wrong, "its OSError is a traceback"


def test_a_command_that_loses_or_changes_results_is_found_out(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def call() -> int:
        out.mkdir(exist_ok=True)
        first = not (out / "begun").exists()
        for path in out.iterdir():
            path.unlink()
        (out / "begun").write_text("x")
        for number in range(8):
            (out / f"{number}.txt").write_text("first" if first else "again")
        return 0

    job = Job("forgetful", call, out, lambda folder: len(list(folder.glob("*.txt"))), contents)
    report = kills.campaign(job, 8, 2, tmp_path / "said")
    assert report.lost
    assert report.unequal


def test_every_kind_of_file_is_looked_into(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n{"b"')  # a last line may be cut off
    save_weights(tmp_path / "d.safetensors", {"a": torch.ones(1)}, {})
    (tmp_path / "e.html").write_text("<html></html>")
    lock_folder(tmp_path).close()
    assert torn(tmp_path) == []
    whole = contents(tmp_path)
    assert set(whole) == {"a.png", "b.json", "c.jsonl", "d.safetensors", "e.html"}
    (tmp_path / ".a.png.abcdefgh.tmp").write_bytes(b"half")
    assert contents(tmp_path) == whole
    assert litter(tmp_path) == 1
    for name in ("a.png", "b.json", "d.safetensors", "e.html"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    (tmp_path / "c.jsonl").write_text('{"a"\n{"b": 2}\n')
    assert [line.split(":")[0] for line in torn(tmp_path)] == sorted(whole)
    assert differences(whole, contents(tmp_path)) == sorted(whole)


def test_processes_are_killed_stopped_and_timed(tmp_path: Path) -> None:
    def write() -> int:
        for number in range(5):
            (tmp_path / f"x{number}").write_text("x")
        return 3

    whole = run(write, tmp_path / "said", Fault(root=tmp_path))
    assert (whole.code, whole.changes, whole.killed) == (3, 5, False)
    assert run(write, tmp_path / "said", Fault("kill", 3, root=tmp_path)).killed
    full = run(write, tmp_path / "said", Fault("ENOSPC", 3, root=tmp_path))
    assert full.traceback
    assert "No space left" in full.text
    child = Child(write, tmp_path / "said", Fault("stop", 2, root=tmp_path))
    assert child.paused()
    child.go_on()
    assert child.wait(20).code == 3
    slow = run(lambda: signal.pause() or 0, tmp_path / "said", limit=0.2)
    assert slow.late
    assert not slow.killed
    assert run(command("--version"), tmp_path / "said").text.startswith("nightaug ")
    assert not list((tmp_path / "said").iterdir())


def promises(case: inputs.Case, place: inputs.Place, call: Callable[[], int]) -> Iterator[str]:
    before = place.snapshot()
    return inputs.broken_promises(case, place, run(call, place.root / "said", limit=5), before)


def test_what_a_user_would_complain_of_is_seen(tmp_path: Path, world: World) -> None:
    place = inputs.Place(tmp_path / "case", world, tmp_path)
    place.good()
    case = inputs.Case("image", ("translate",), "bad.jpg", ("good0.jpg",), True)

    def crash() -> int:
        raise ValueError("oops")

    def outside() -> int:
        (place.root / "outside.jpg").unlink()
        return 2

    def says(text: str, code: int) -> Callable[[], int]:
        def call() -> int:
            print(text)
            return code

        return call

    assert any("Traceback" in wrong or "oops" in wrong for wrong in promises(case, place, crash))
    assert any("does not name bad.jpg" in wrong for wrong in promises(case, place, says("error: no", 2)))
    assert any("0 lines of error" in wrong for wrong in promises(case, place, says("bad.jpg", 2)))
    assert any("not finished: good0.jpg" in wrong for wrong in promises(case, place, says("bad.jpg", 1)))
    assert any("without a word" in wrong for wrong in promises(case, place, says("", 0)))
    assert list(promises(case, place, says("error: bad.jpg is damaged", 2))) == []
    assert any("outside --out" in wrong for wrong in promises(case, place, outside))


def test_every_kind_of_damage_gets_its_share() -> None:
    for points, quick in ((500, False), (20, True)):
        jobs = makers.jobs(points, quick)
        assert len(set(jobs)) == len(jobs)
        assert abs(len(jobs) - points) <= 10
        assert {maker for maker, _ in jobs} >= set(makers.QUICK)
        assert (makers.million_objects in dict(jobs)) is not quick


def test_pipes_and_devices_stand_in_for_every_kind_of_file(world: World, tmp_path: Path) -> None:
    numbers = [number for maker, number in makers.jobs(500) if maker is makers.labels_that_hang]
    places = [inputs.Place(tmp_path / str(number), world, tmp_path) for number in numbers]
    cases = [makers.labels_that_hang(place, random.Random(0), at) for at, place in zip(numbers, places, strict=True)]
    for case, place in zip(cases, places, strict=True):
        assert place.root / case.bad in case.words
        assert not (place.root / case.bad).is_file()
    kinds = {(case.bad, (place.root / case.bad).is_fifo()) for case, place in zip(cases, places, strict=True)}
    endings = ("json", "safetensors", "pth", "yaml", "xml", "onnx")
    assert kinds == {(f"x.{ending}", pipe) for ending in endings for pipe in (True, False)}


@pytest.mark.parametrize("format", FORMATS)
def test_the_good_documents_are_good(world: World, tmp_path: Path, format: str) -> None:
    from nightaug.data.formats import open_dataset

    place = inputs.Place(tmp_path / "case", world, tmp_path)
    found: dict[str, Any] = documents(format, [Row(name, GOOD_BOXES) for name in ("good0.jpg", "good1.png")])
    place.labelled({name: encoded(value) for name, value in found.items()}, format)
    dataset = open_dataset(place.input)
    assert dataset.format == format
    assert [len(frame.boxes) for frame in dataset.frames() if frame.boxes] == [2, 2]
    assert json.dumps(sorted(dataset.problems.counts)) == "[]"
