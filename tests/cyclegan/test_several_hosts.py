"""Training on several hosts; ``benchmarks/two_hosts.py`` shows the rest, this is what fits into a test."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nightaug.errors import NightaugError
from nightaug.runs import RunFolder
from nightaug.training import training_errors


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module("two_hosts")
    for name in ("two_hosts", "common"):
        sys.modules.pop(name, None)


def test_a_process_that_dies_ends_the_job_with_one_line(hosts: ModuleType, domains: Path, tmp_path: Path) -> None:
    places = [hosts.Host([], address, "lo") for address in ("127.0.0.1", "127.0.0.2")]
    settings = hosts.TRANSLATOR | {"steps": 100_000, "save_every": 2}
    # --resume from the start is what schedulers that start jobs again need.
    command = [*hosts.command("translator", domains, tmp_path / "run", settings), "--resume"]
    job = hosts.Job(places, command, tmp_path / "logs")
    try:
        deadline = time.monotonic() + 120
        while RunFolder(tmp_path / "run").latest_state() is None and time.monotonic() < deadline:
            assert job.processes[0].poll() is None, job.logs[0].read_text()
            time.sleep(0.05)
        os.kill(job.worker(1), signal.SIGKILL)
        assert job.wait() < 60
    finally:
        job.end()
    said = [line for line in job.logs[0].read_text().splitlines() if line.startswith("error: ")]
    assert said == [
        "error: another process of this training has ended or cannot be reached any more, see what it said; "
        "the newest state is kept: start all processes again with --resume"
    ]
    assert all(process.returncode for process in job.processes)
    assert RunFolder(tmp_path / "run").latest_state()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, ""),
        ({"first_step_apart": 0.5}, "0.5 apart"),
        ({"first_step_apart": float("nan")}, "nan apart"),
        ({"survivor_said": "nothing"}, "said: nothing"),
        ({"ended_after_seconds": 300.0}, "after 300.0 s"),
        ({"killed_after_state": None}, "step None"),
        ({"killed_after_state": 12}, "step 12"),
        ({"killed_codes": [1, 0]}, "exit codes"),
        ({"resumed_equal": False}, "differs"),
    ],
)
def test_the_benchmark_complains_of_broken_promises(hosts: ModuleType, wrong: dict[str, Any], words: str) -> None:
    good = {
        "first_step_apart": 1e-7, "ended_after_seconds": 3.0, "survivor_said": "error: another process of this ...",
        "killed_after_state": 4, "killed_codes": [1, 1], "steps": 12, "resumed_equal": True,
    }  # fmt: skip
    said = hosts.complaints(good | wrong)
    assert len(said) == bool(wrong)
    assert words in "".join(said)


@pytest.mark.parametrize(
    "words",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2",
        "[pair.cc:1] Timed out waiting 1800000ms for recv operation to complete, gloo",
    ],
)
def test_lost_processes_are_told_from_other_errors(tmp_path: Path, words: str) -> None:
    with pytest.raises(NightaugError, match="start all processes again with --resume"), training_errors(tmp_path, ""):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shapes"), training_errors(tmp_path, ""):
        raise RuntimeError("shapes do not fit")
