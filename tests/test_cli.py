from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command

from nightaug.cli import app, main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage: nightaug" in out
    # An example such as dataset:train:A must not become a picture of a train.
    assert max(out) < "\U0001f000"


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].startswith("nightaug 0.")
    _, out, _ = run(capsys)
    assert "train-translator" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["translate", "x", "--ot", "y"], "--out"),
        (["translat"], "Did you mean 'translate'"),
        (["translate"], "--help"),
        (["translate", "x", "--out", "y", "--direction", "up"], "day2night"),
        (["translate", "absent", "--out", "y"], "no such file or folder"),
        (["prepare", "absent", "--out", "y"], "no such"),
        (["prepare", "--out", "y"], "--a"),
        (["train-translator", "absent", "--out", "y"], "no such folder"),
        (["train-translator", "x", "--out", "y", "--preset", "bdd"], "unknown preset 'bdd'"),
        (["train-translator", "x", "--out", "y", "--set", "lr=1"], "Unknown key: 'lr'"),
        (["train-translator", "x", "--out", "y", "--set", "crop=50", "--set", "widht=3"], "did you mean 'width'"),
        (["train-translator", "x", "--out", "y", "--steps", "1", "--epochs", "1"], "not both"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not list(tmp_path.iterdir())


def test_the_whole_way_from_folders_to_night_images(
    capsys: pytest.CaptureFixture[str], domains: Path, tmp_path: Path
) -> None:
    a, b, ab = domains / "train" / "A", domains / "train" / "B", tmp_path / "ab"
    code, out, _ = run(capsys, "prepare", "--a", str(a), "--b", str(b), "--out", str(ab), "--split", "4:1:1")
    assert code == 0
    assert "images" in out
    assert (ab / "counts.json").exists()
    tiny = {"width": 4, "blocks": 1, "discriminator_width": 4, "crop": 64, "score_images": 2, "sample_height": 64}
    settings = [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]
    run_folder = tmp_path / "run"
    base = ["train-translator", str(ab), "--out", str(run_folder), "--cpu"]
    code, out, _ = run(capsys, *base, *settings, "--steps", "2", "--dry-run")
    assert code == 0
    assert "width: 4" in out
    assert not run_folder.exists()
    assert run(capsys, *base, *settings, "--steps", "2")[0] == 0
    assert run(capsys, *base, *settings, "--steps", "2")[0] == 2
    assert run(capsys, *base, "--resume", "--steps", "3")[0] == 0  # settings come from the run itself
    out_folder = tmp_path / "night"
    base = ["translate", str(a), "--out", str(out_folder), "--translator", str(run_folder)]
    code, out, _ = run(capsys, *base, "--dry-run")
    assert code == 0
    assert "trainA0.png -> trainA0.png" in out
    assert not out_folder.exists()
    assert run(capsys, *base)[0] == 0
    assert len(list(out_folder.glob("*.png"))) == 6
    code, out, _ = run(capsys, *base)
    assert "0 translated, 6 were there" in out
    (a / "broken.png").write_bytes(b"x")
    code, out, _ = run(capsys, *base, "--overwrite")
    assert code == 1
    assert "1 skipped" in out
    assert "broken.png" in out


def test_config_file_and_preset(capsys: pytest.CaptureFixture[str], domains: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("translator:\n  width: 8\n  steps: 7\n")
    base = [
        "train-translator",
        str(domains),
        "--out",
        str(tmp_path / "run"),
        "--preset",
        "demo",
        "--config",
        str(config),
        "--cpu",
    ]
    code, out, _ = run(capsys, *base, "--set", "weights.cycle=3", "--dry-run")
    assert code == 0
    for line in ("width: 8", "steps: 7", "crop: 128", "cycle: 3.0"):
        assert line in out


def test_doctor_tells_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "device:" in out
    assert "[yolo]" in out


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nightaug import doctor

    monkeypatch.setattr(doctor, "CORE", (*doctor.CORE, "no-such-package"))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "no-such-package" in out
    assert "MISSING" in out


def test_translate_writes_where_it_is_told_only(
    capsys: pytest.CaptureFixture[str], domains: Path, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in domains.rglob("*")}
    assert run(capsys, "translate", str(domains), "--out", str(tmp_path / "out"), "--limit", "2")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in domains.rglob("*")} == before
    assert json.loads((tmp_path / "out" / "translation.json").read_text())["translated"] == 2


def test_a_place_that_ends_with_the_command_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in ((str(tmp_path), "--out", "memory://night"), ("memory://day", "--out", str(tmp_path / "night"))):
        code, _, err = run(capsys, "translate", *words)
        assert code == 2
        assert "gone when this command ends" in err
