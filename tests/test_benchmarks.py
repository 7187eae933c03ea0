"""benchmarks/night_gap.py: its commands are ones nightaug has, and it refuses to mix what was made differently."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from nightaug.cli import app

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def night_gap(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import night_gap

    yield night_gap
    for name in ("night_gap", "common"):
        sys.modules.pop(name, None)


def run(night_gap: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["night_gap.py", *words])
    code: int = night_gap.main()
    return code


@pytest.mark.parametrize("boxes", ["real", "pseudo"])
def test_every_step_is_a_command_of_nightaug(
    night_gap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    boxes: str,
) -> None:
    words = ["--data", "data", "--out", str(tmp_path / "out"), "--night-boxes", boxes, "--plan", "--cpu"]
    assert run(night_gap, monkeypatch, *words, "--set", "batch=2", "--judge-set", "learning_rate=0.001") == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.partition(": ")[0] for line in lines]
    assert titles[0] == "to do train cyclegan"
    assert titles[-1] == "to do compare"
    assert ("to do predict night" in titles) == (boxes == "pseudo")
    # What refines relit days needs them, and what curates needs a curator.
    for first, then in (
        ("translate relight", "train refined"),
        ("train curator", "curate"),
        ("train judge", "score curated"),
    ):
        assert titles.index(f"to do {first}") < titles.index(f"to do {then}")
    group = get_command(app)
    for line in lines:
        command, *given = line.partition("nightaug ")[2].split()
        found = group.commands[command]  # type: ignore[attr-defined]
        found.make_context(command, given)  # an option that is not there ends here
    judge = next(line for line in lines if "train judge" in line)
    assert judge.index("batch=2") < judge.index("learning_rate=0.001")
    assert not (tmp_path / "out").exists(), "a plan writes nothing"


def test_a_folder_begun_with_other_options_is_refused(
    night_gap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "data", "--out", str(tmp_path)]
    monkeypatch.setattr(night_gap, "carry_out", lambda steps, until: True)
    assert run(night_gap, monkeypatch, *words) == 0
    assert json.loads((tmp_path / "night_gap.json").read_text())["options"]["data"] == "$DATA"
    with pytest.raises(SystemExit):
        run(night_gap, monkeypatch, *words, "--steps", "5")
    assert "--steps was 800" in capsys.readouterr().err
