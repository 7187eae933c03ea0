from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightaug.cyclegan.loop import TrainResult
from nightaug.data.formats import open_dataset
from nightaug.errors import ConfigError, Interrupted
from nightaug.experiment import demo
from nightaug.experiment.demo import run_demo
from nightaug.translate.pipeline import TranslateResult


def test_demo_runs_from_end_to_end_and_again(tmp_path: Path) -> None:
    lines: list[str] = []
    page = run_demo(tmp_path, 0.1, 0.1, 8, lines.append)
    text = page.read_text("utf-8")
    assert text.count('type="range"') >= 4
    assert "demonstration" in text.lower()
    assert "Demonstration on" in page.with_name("translation.html").read_text("utf-8")
    said = "\n".join(lines)
    for word in ("demonstration", "day+night", "day+translated:relight", "day+translated:cyclegan"):
        assert word in said.lower()
    for name in ("relight", "cyclegan"):
        frames = open_dataset(tmp_path / name).frames()
        assert frames
        assert all(frame.timeofday == "night" and frame.path for frame in frames)
    weights = (tmp_path / "translator" / "last.safetensors").read_bytes()
    table = (tmp_path / "comparison" / "table.json").read_bytes()
    run_demo(tmp_path, 0.1, 0.1, 8, lines.append)
    assert (tmp_path / "comparison" / "table.json").read_bytes() == table
    assert (tmp_path / "translator" / "last.safetensors").read_bytes() == weights
    with pytest.raises(ConfigError, match="other settings"):
        run_demo(tmp_path, 0.1, 0.1, 9, lines.append)


def test_stopped_at_the_end_of_a_part_it_begins_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainResult(10, True, None, interrupted=True)
    monkeypatch.setattr("nightaug.cyclegan.recipe.run_recipe", lambda *given, **more: whole)
    with pytest.raises(Interrupted, match="stopped while training; run the same command again"):
        run_demo(tmp_path, 0.1, 0.1, 8, lambda line: None)
    monkeypatch.setattr(demo, "train", lambda *given: True)
    monkeypatch.setattr(demo, "run_job", lambda *given, **more: TranslateResult(written=8, interrupted=True))
    with pytest.raises(Interrupted, match="stopped while translating; run the same command again"):
        run_demo(tmp_path, 0.1, 0.1, 8, lambda line: None)


@pytest.mark.parametrize("left", [b"", b'{"ima', b"\xff"])
def test_settings_that_a_power_cut_left_empty_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    def drawing(world: Path, images: int) -> None:
        raise Interrupted("got as far as drawing")

    monkeypatch.setattr(demo, "draw_world", drawing)
    (tmp_path / "demo.json").write_bytes(left)
    with pytest.raises(Interrupted, match="drawing"):
        run_demo(tmp_path, 0.1, 0.1, 8, lambda line: None)
    assert json.loads((tmp_path / "demo.json").read_text())["images"] == 8
