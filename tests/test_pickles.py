"""Pickles of strangers: refused with what they would do, and loaded only where the user says so."""

from __future__ import annotations

import os
import pickle
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import picture

from nightaug import pickles
from nightaug.cli import main
from nightaug.cyclegan.networks import ResnetGenerator
from nightaug.errors import CheckpointError
from nightaug.images import write_image
from nightaug.pickles import called_names, load_torch, trusted, trusting
from nightaug.runs import RunFolder, load_weights


class Maker:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.place),)


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [zipped, legacy, plain])
def test_code_in_a_file_runs_only_where_it_is_trusted(tmp_path: Path, write: Callable[[object, Path], None]) -> None:
    made, file = tmp_path / "made", tmp_path / "weights.pth"
    write({"a": torch.ones(2), "x": Maker(made)}, file)
    with pytest.raises(CheckpointError, match=r"names posix\.mkdir.*: refused; .*state_dict.*--trust.*your rights"):
        load_torch(file)
    with trusting(False), pytest.raises(CheckpointError, match="refused"):
        load_weights(file)
    assert not made.exists()
    if write is plain:
        return  # no weights in any case
    with trusting():
        assert trusted()
        # A training state of ours is never code, whatever the user trusts.
        with pytest.raises(CheckpointError, match="refused"):
            load_torch(file, trust=False)
        tensors, _ = load_weights(file)
    assert made.is_dir()
    assert list(tensors) == ["a"]
    assert not trusted()


def test_a_whole_network_gives_its_tensors_where_it_is_trusted(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 1)
    torch.save(network, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        load_weights(tmp_path / "x.pt")
    with trusting():
        tensors, _ = load_weights(tmp_path / "x.pt")
    assert torch.equal(tensors["weight"], network.weight)


def test_ultralytics_files_are_said_to_be_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("ultralytics.nn.tasks")
    module.DetectionModel = type("DetectionModel", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    for name in ("ultralytics", "ultralytics.nn", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"model": module.DetectionModel()}, tmp_path / "yolo.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint of ultralytics.*train-detector --detector"):
        load_torch(tmp_path / "yolo.pt")


def test_states_of_runs_are_never_code(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.state_folder(3).mkdir(parents=True)
    torch.save({"x": Maker(tmp_path / "made")}, folder.state_folder(3) / "rank-0.pt")
    with trusting(), pytest.raises(CheckpointError, match="refused"):
        folder.load_state(3, 0)
    assert not (tmp_path / "made").exists()


def test_names_are_found_in_whatever_is_there(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for protocol in range(5):
        file.write_bytes(pickle.dumps({"x": Maker(tmp_path), "y": [Maker(tmp_path)]}, protocol))
        assert called_names(file) == ["posix.mkdir"], protocol
    file.write_bytes(pickle.dumps(Maker(tmp_path))[:-8])
    assert called_names(file) == ["posix.mkdir"]
    for rubbish in (b"", b"rubbish", b"PK\x03\x04", bytes(range(256))):
        file.write_bytes(rubbish)
        assert called_names(file) == []
    torch.save({"a": torch.ones(1)}, file)
    assert called_names(file) == []
    assert called_names(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "tail",
    [b"N." * 300_000, b"N0" * 600_000 + b"."],
    ids=["many little pickles", "a long one"],
)
def test_no_file_is_looked_through_for_long(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(b"cposix\nsystem\n." + tail + b"cshutil\nrmtree\n.")
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"names posix\.system\): refused"):
        load_torch(file)
    assert time.process_time() - began < 5


def test_archives_are_not_unpacked_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_LOOKED_AT", 5_000)
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}.pkl", b"".join(b"cmodule%d\nname%d\n." % (number, k) for k in range(100)))
    names = called_names(tmp_path / "x.pt")
    assert names[:2] == ["module0.name0", "module0.name1"]
    assert 200 < len(names) < 300, "the third is cut off, the fourth not looked at"


def test_the_command_trusts_as_long_as_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, file = tmp_path / "made", tmp_path / "stranger.pth"
    network = ResnetGenerator(width=4, blocks=1)
    torch.save({"state_dict": network.state_dict(), "x": Maker(made)}, file)
    write_image(tmp_path / "in" / "a.jpg", picture())
    command = ["translate", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--translator", str(file)]
    with pytest.raises(SystemExit) as caught:
        main(command)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.count("\n") == 1
    assert "--trust" in said
    assert not made.exists()
    with pytest.raises(SystemExit) as caught:
        main([*command, "--trust"])
    assert caught.value.code == 0
    assert made.is_dir()
    assert (tmp_path / "out" / "a.jpg").exists()
    assert not trusted()
