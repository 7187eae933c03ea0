from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nightaug.config import Settings
from nightaug.errors import CheckpointError, ConfigError
from nightaug.pickles import load_torch
from nightaug.runs import (
    RunFolder,
    StopRequest,
    load_weights,
    lock_folder,
    progress_bar,
    read_metadata,
    resolve_precision,
    save_weights,
    step_progress,
)


class Inner(Settings):
    depth: int = 3
    height: int = 4


class Small(Settings):
    steps: int = 1
    width: int = 2
    inner: Inner = Inner()


class Named(Small):
    name: str


def test_a_used_folder_needs_resume_and_equal_settings(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.start(Small(), resume=False) is False
    folder.write_settings(Small())
    folder.close()
    with pytest.raises(ConfigError, match="--resume"):
        folder.start(Small(), resume=False)
    with pytest.raises(ConfigError, match="width was 2, is 3"):
        folder.start(Small(width=3), resume=True)
    # A refused start does not keep the folder, and a setting that may change may.
    assert folder.start(Small(steps=9), resume=True, may_change=("steps",)) is False
    folder.close()


def test_a_setting_of_a_section_is_named_alone_and_may_change_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_settings(Small())
    with pytest.raises(ConfigError, match=r"was started with: inner\.depth was 3, is 5$"):
        RunFolder(tmp_path).start(Small(inner=Inner(depth=5, height=9)), True, ("inner.height",))
    RunFolder(tmp_path).start(Small(inner=Inner(height=9)), True, ("inner.height",))


def test_a_run_of_a_version_with_fewer_settings_goes_on_with_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\nsteps: 1\ninner: {depth: 9}\n")
    folder = RunFolder(tmp_path)
    folder.start(Named(name="x", inner=Inner(depth=9)), resume=True)
    folder.close()
    for settings, said in (
        (Named(name="x", inner=Inner(depth=9, height=5)), r"inner\.height was 4, is 5"),
        (Named(name="x", inner=Inner(depth=9), width=3), "width was 2, is 3"),
        (Named(name="y", inner=Inner(depth=9)), "name was 'x', is 'y'"),
    ):
        with pytest.raises(ConfigError, match=said):
            folder.start(settings, resume=True)
    # What this version no longer knows is a difference.
    (tmp_path / "config.yaml").write_text("name: x\ninner: {depth: 9}\nold: 1\n")
    with pytest.raises(ConfigError, match="old was 1, is None"):
        folder.start(Named(name="x", inner=Inner(depth=9)), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_no_run_folder(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "train" / "A").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"is not empty and holds no run; choose another --out$"):
        RunFolder(tmp_path).start(Small(), resume)
    assert [path.name for path in tmp_path.iterdir()] == ["train"], "not even a lock"


def test_what_a_killed_start_leaves_is_no_hindrance(tmp_path: Path) -> None:
    lock_folder(tmp_path).close()
    for name in (".config.yaml.abcdefgh.tmp", "row.json", "crops.safetensors"):
        (tmp_path / name).write_bytes(b"")
    folder = RunFolder(tmp_path)
    folder.start(Small(), resume=False)
    folder.close()


def test_a_run_that_has_lost_its_settings_goes_on_and_is_not_begun_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(3, 0, {"x": 1})
    folder.commit_state(3)
    with pytest.raises(ConfigError, match="is not empty"):
        folder.start(Small(), resume=False)
    assert folder.start(Small(), resume=True)
    folder.close()


def test_resume_says_when_it_begins_a_run(tmp_path: Path) -> None:
    """A mistyped --out would be a new run without a word."""
    lines: list[str] = []
    for resume in (True, False, True):
        folder = RunFolder(tmp_path / ("run" if resume else "other"))
        folder.start(Small(), resume, say=lines.append)
        folder.write_settings(Small())
        folder.close()
    assert lines == [f"no run in {tmp_path / 'run'} yet, so --resume begins one"]


def test_only_one_process_holds_a_folder(tmp_path: Path) -> None:
    held = lock_folder(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        lock_folder(tmp_path)
    held.close()
    lock_folder(tmp_path).close()


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # Python ignores the signal: writing fails
    try:
        with pytest.raises(OSError, match=r"File too large.*step-000000003"):
            RunFolder(tmp_path).save_state(3, 0, {"weights": torch.zeros(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.tmp"))


def test_state_counts_only_when_committed_and_old_ones_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(3, 0, {"x": torch.ones(2), "n": 5})
    assert folder.latest_state() is None
    folder.commit_state(3)
    folder.save_state(6, 0, {"x": torch.zeros(2)})
    assert folder.latest_state() == 3
    assert folder.load_state(3, 0)["n"] == 5
    folder.commit_state(6)
    assert folder.latest_state() == 6
    assert not folder.state_folder(3).exists()
    with pytest.raises(CheckpointError, match="number of processes"):
        folder.load_state(6, 1)


def test_no_changed_bit_of_a_state_goes_unnoticed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(3, 0, {"x": torch.arange(64.0), "group": {"momentum": 0.9}})
    file = folder.state_folder(3) / "rank-0.pt"
    whole = file.read_bytes()
    values = whole.index(torch.arange(64.0).numpy().tobytes())
    for place in (whole.index(b"momentum"), values + 100, whole.rindex(b"data.pkl")):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"rank-0\.pt is damaged"):
            folder.load_state(3, 0)
    file.write_bytes(whole)
    assert folder.load_state(3, 0)["group"] == {"momentum": 0.9}


def test_metrics_survive_a_torn_line_and_are_cut_on_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    for step in (1, 2, 3):
        folder.append_metrics(step, {"loss": step / 2})
    with open(folder.metrics_path, "a") as stream:
        stream.write('{"step": 4, "lo')
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3]
    folder.cut_metrics(2)
    assert folder.metrics_path.read_text() == "".join(json.dumps({"step": s, "loss": s / 2}) + "\n" for s in (1, 2))


def test_weights_come_back_with_their_metadata(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.arange(6.0).reshape(2, 3).T}, {"k": "v"})
    tensors, metadata = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 half a zip"])
def test_damaged_checkpoints_are_named(tmp_path: Path, content: bytes) -> None:
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a dict"):
        load_torch(tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_pipes_and_devices_are_no_weights(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    os.symlink("/dev/zero", tmp_path / f"zero-{name}")
    for path in (tmp_path / name, tmp_path / f"zero-{name}"):
        for read in (load_weights, read_metadata) if name.endswith("s") else (load_weights, load_torch):
            with pytest.raises(CheckpointError, match=r"no ordinary file|no such file"):
                read(path)


def test_damaged_metrics_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_path.write_bytes(b'{"step": 1}\n\xff\n[]\n{"step": "x"}\n{"stop": 2}\n{"step": 3}\n')
    assert [row["step"] for row in folder.read_metrics()] == [1, 3]
    folder.cut_metrics(2)
    assert folder.metrics_path.read_bytes() == b'{"step": 1}\n'


def test_what_a_killed_process_was_writing_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(Small(), False)
    folder.write_settings(Small())
    folder.close()
    left = tmp_path / "state" / "step-000000003" / ".rank-0.pt.abcd1234.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    folder.start(Small(), True)
    folder.close()
    assert not left.exists()


def test_the_first_signal_asks_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
    with StopRequest().listen() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            _wait_for(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _wait_for(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(1)


def test_progress_without_a_terminal_prints_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("drawing", 3) as progress:
        for i in range(3):
            progress(i + 1, "fine")
    assert "drawing: 3/3" in capsys.readouterr().err
    with step_progress() as steps:
        steps("reading", 1, 2)


def test_precision_by_choice_and_by_device() -> None:
    assert resolve_precision("fp16", True) == "fp16"
    assert resolve_precision("auto", True) in ("bf16", "fp32")


def test_weights_that_may_not_be_read_are_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root everything can be read
    for read in (load_weights, read_metadata):
        with pytest.raises(CheckpointError, match="no permission to read"):
            read(tmp_path / "w.safetensors")
