from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclegan_runs import ctrl_c_in_the_second_step, interrupted_at, same, weights
from helpers import picture

from nightaug.config import build
from nightaug.cyclegan.checkpoint import read_generator, read_night_boxes, read_relit_strength, write_translator
from nightaug.cyclegan.distill import Distiller, gradient_l1, run_distill
from nightaug.cyclegan.networks import initialize
from nightaug.cyclegan.pairs import GeneratorPair
from nightaug.cyclegan.settings import DistillSettings, TranslatorSettings
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.errors import CheckpointError, ConfigError, NightaugError
from nightaug.runs import read_metadata

TINY: dict[str, Any] = {
    "width": 4, "blocks": 1, "halvings": 2, "crop": 64, "load_size": 64, "batch": 1, "steps": 6, "log_every": 2,
    "sample_every": 4, "save_every": 3, "score_images": 2, "sample_height": 64, "mixed_precision": "fp32",
    "tensorboard": False,
}  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return made_teacher(tmp_path / "teacher")


def made_teacher(run: Path, **facts: Any) -> Path:
    settings = TranslatorSettings(width=4, blocks=1)
    pair = GeneratorPair(settings)
    initialize(pair, torch.Generator().manual_seed(1), std=0.05)
    write_translator(run / "best.safetensors", pair, settings, 7, "0", **facts)
    return run


def test_a_student_comes_to_do_what_its_teacher_does(teacher: Path, domains: Path, tmp_path: Path) -> None:
    long = TINY | {"steps": 60, "width": 8, "learning_rate": 5e-3, "log_every": 10, "ema": 0.8, "sample_every": 20}
    said: list[str] = []
    result = run_distill(teacher, domains, tmp_path / "run", [long], cpu=True, say=said.append)
    assert result is not None
    assert result.finished
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses, scores = ([row for row in rows if key in row] for key in ("l1", "score"))
    assert losses[-1]["l1"] < 0.65 * losses[0]["l1"]
    assert losses[-1]["gradient"] < losses[0]["gradient"]
    assert scores[-1]["score"] < scores[0]["score"]
    assert scores[-1]["psnr"] > scores[0]["psnr"] > 0
    assert (tmp_path / "run" / "samples" / "step-0000060.jpg").exists()
    # On an image neither has seen: closer to the teacher than the day is.
    image = picture(21)
    night, copy = (
        CycleGANTranslator.load(run, device="cpu", precision="fp32")(image) for run in (teacher, tmp_path / "run")
    )
    assert np.abs(night.astype(int) - copy).mean() < 0.5 * np.abs(night.astype(int) - image).mean()
    assert any("parameters, student" in line for line in said)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(teacher: Path, domains: Path, tmp_path: Path) -> None:
    run_distill(teacher, domains, tmp_path / "whole", [TINY], cpu=True)
    interrupted_at(5, Distiller(teacher, domains, tmp_path / "parts", build(DistillSettings, TINY), cpu=True))
    result = run_distill(teacher, domains, tmp_path / "parts", [TINY], resume=True, cpu=True)
    assert result is not None
    assert result.finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("metrics.jsonl", "config.yaml", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_ctrl_c_saves_and_another_teacher_is_refused(teacher: Path, domains: Path, tmp_path: Path) -> None:
    distiller = Distiller(teacher, domains, tmp_path / "run", build(DistillSettings, TINY, {"steps": 1000}), cpu=True)
    ctrl_c_in_the_second_step(distiller)
    assert (distiller.run(False).step, distiller.folder.latest_state()) == (2, 2)
    other = tmp_path / "other"
    made_teacher(other, night_boxes="real")
    with pytest.raises(ConfigError, match="other images or by another teacher"):
        run_distill(other, domains, tmp_path / "run", [TINY, {"steps": 1000}], resume=True, cpu=True)


def test_the_weights_know_what_the_teacher_knew(domains: Path, tmp_path: Path) -> None:
    made_teacher(tmp_path / "teacher", night_boxes="pseudo")
    short = TINY | {"steps": 1, "direction": "night2day"}
    run_distill(tmp_path / "teacher", domains, tmp_path / "run", [short], cpu=True)
    path = tmp_path / "run" / "last.safetensors"
    assert read_night_boxes(path) == "pseudo"
    assert len(json.loads(read_metadata(path)["nightaug"])["teacher"]) == 64
    assert read_generator(path, "night2day").multiple == 4
    with pytest.raises(CheckpointError, match="night2day alone"):
        read_generator(path, "day2night")


def test_a_teacher_that_refines_relit_days_needs_them(domains: Path, tmp_path: Path) -> None:
    from nightaug.translate.pipeline import translate
    from nightaug.translate.plan import make_plan
    from nightaug.translate.translators import Translator

    made_teacher(tmp_path / "teacher", relit=0.8)
    short = TINY | {"steps": 1}
    with pytest.raises(ConfigError, match=r"refines days relit with strength 0\.8"):
        run_distill(tmp_path / "teacher", domains, tmp_path / "run", [short], cpu=True)
    with pytest.raises(ConfigError, match="no way to a real day"):
        run_distill(tmp_path / "teacher", domains, tmp_path / "run", [short, {"direction": "night2day"}], cpu=True)
    relit = tmp_path / "relit"
    translate(make_plan(domains, "day2night"), Translator.load(strength=0.8), relit)
    run_distill(tmp_path / "teacher", domains, tmp_path / "run", [short, {"day": str(relit)}], cpu=True)
    assert read_relit_strength(tmp_path / "run" / "last.safetensors") == 0.8


def test_a_poisoned_teacher_image_stops_the_run(teacher: Path, domains: Path, tmp_path: Path) -> None:
    distiller = Distiller(teacher, domains, tmp_path / "run", build(DistillSettings, TINY, {"steps": 9}), cpu=True)
    calls = []

    def poisoned(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x * float("nan") if len(calls) == 5 else x

    distiller.teacher = poisoned  # type: ignore[assignment]
    distiller.scorer = lambda: lambda folder, step: {}  # type: ignore[method-assign]
    with pytest.raises(NightaugError, match=r"(?s)l1.*non-finite.*step 5.*step 3"):
        distiller.run(False)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())


def test_mistakes_are_explained(teacher: Path, domains: Path, tmp_path: Path) -> None:
    for extra, message in (
        ({"crop": 68, "load_size": 68, "halvings": 3}, "crop must be a multiple of 8"),
        ({"weights": {"l1": 0, "gradient": 0}}, "nothing to learn"),
        ({"objective": "cut"}, "Unknown key: 'objective'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_distill(teacher, domains, tmp_path / "run", [TINY, extra], cpu=True)
    with pytest.raises(CheckpointError, match="no such file"):
        run_distill(tmp_path / "absent", domains, tmp_path / "run", [TINY], cpu=True)
    assert run_distill(str(teacher), str(domains), str(tmp_path / "run"), [TINY], cpu=True, dry_run=True) is None
    assert not (tmp_path / "run").exists()


def test_the_gradient_loss_sees_edges_and_not_brightness() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert float(gradient_l1(x + 0.3, x)) == pytest.approx(0, abs=1e-6)
    step = torch.zeros(1, 1, 2, 4)
    step[..., 2:] = 1
    # One of the three steps across differs by 1, none of those down.
    assert float(gradient_l1(step, torch.zeros_like(step))) == pytest.approx(1 / 3)
