from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cyclegan_runs import TINY, command, interrupted_at, same, weights
from torch import Tensor, nn

from nightaug.config import build
from nightaug.cyclegan.checkpoint import read_generator, read_night_boxes
from nightaug.cyclegan.recipe import run_recipe
from nightaug.cyclegan.segmentation import SegmentingDiscriminator
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.train import Trainer
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.errors import CheckpointError, ConfigError
from nightaug.translate.translators import Translator

ALL: dict[str, Any] = {
    "objective": "both",
    "contrast": {"places": 16, "width": 8},
    "faithful": {
        "night_boxes": "real", "head_width": 4, "places": 16, "inside": 2.0, "masks": "ellipse",
        "weights": {"segmentation": 1.0, "hallucination_outside": 0.2, "suppression": 1.0},
    },
}  # fmt: skip
CUT: dict[str, Any] = ALL | {"objective": "cut", "faithful": ALL["faithful"] | {"inside": 1.0}}


class Edges(nn.Module):
    """A frozen network of one level: what a detector's features stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


class Crops(nn.Module):
    crop_size = (8, 8)

    def forward(self, crops: Tensor) -> Tensor:
        assert crops.shape[1:] == (3, 8, 8)
        return crops.flatten(1)


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "adversarial_a2b" in row]


@pytest.mark.parametrize("extra", [ALL | {"accumulate": 2}, CUT])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    labelled: Path, tmp_path: Path, extra: dict[str, Any]
) -> None:
    run_recipe(labelled, tmp_path / "whole", [TINY, extra])
    interrupted_at(5, Trainer(labelled, tmp_path / "parts", build(TranslatorSettings, TINY, extra)))
    result = run_recipe(labelled, tmp_path / "parts", [TINY, extra], resume=True)
    assert result is not None
    assert result.finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("metrics.jsonl", "config.yaml", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    names = {"segmentation", "hallucination_outside", "suppression", "nce", "nce_identity", "invented_share"}
    assert names <= set(metrics(tmp_path / "whole")[-1])
    # Other boxes are other data.
    file = labelled / "annotations" / "train_B.json"
    file.write_text(file.read_text().replace('"bbox": [8, 10', '"bbox": [9, 10'))
    with pytest.raises(ConfigError, match="trained on other images"):
        run_recipe(labelled, tmp_path / "parts", [TINY, extra, {"steps": 8}], resume=True)


def test_kill_minus_nine_loses_only_what_came_after_the_last_state(labelled: Path, tmp_path: Path) -> None:
    settings = TINY | ALL | {"steps": 12, "save_every": 2, "sample_every": 100}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed = subprocess.Popen(command(1, labelled, tmp_path / "killed", settings), start_new_session=True, **quiet)
    state = tmp_path / "killed" / "state" / "last.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert state.exists()
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        subprocess.run([*command(1, labelled, tmp_path / name, settings), *more], check=True, timeout=300, **quiet)
    for name in ("last.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_each_loss_trains_what_it_should(labelled: Path, tmp_path: Path) -> None:
    trainer = Trainer(labelled, tmp_path / "run", build(TranslatorSettings, TINY, ALL))
    assert trainer.aware is not None
    batch, chance = next(iter(trainer.batches(0)))[0], torch.Generator().manual_seed(0)
    critic = trainer.discriminators.B
    assert isinstance(critic, SegmentingDiscriminator)
    trainer.discriminators.requires_grad_(False)
    for name in ("hallucination_outside", "suppression"):
        out = trainer.generators(batch["a"], batch["b"], True)
        loss = trainer.aware.losses(trainer.generators, critic, batch, out, chance)[0][name]
        trainer.generators.zero_grad()
        (loss + 0 * out["fake_b"].sum()).backward()
        grown = trainer.generators.A2B.model[1].weight.grad
        assert grown is not None
        assert grown.any(), name
        assert all(parameter.grad is None for parameter in trainer.discriminators.parameters()), name
    trainer.discriminators.requires_grad_(True)
    trainer.generators.zero_grad()
    fakes = {key: out[key].detach() for key in trainer.buffers}
    trainer._discriminator_losses(batch, fakes, chance)["segmentation"].backward()
    assert critic.decoder.logits.weight.grad is not None
    assert all(parameter.grad is None for parameter in trainer.generators.parameters())
    assert all(parameter.grad is None for parameter in trainer.discriminators.A.parameters())


def test_prototypes_come_from_real_night_boxes(labelled: Path, tmp_path: Path) -> None:
    trainer = Trainer(labelled, tmp_path / "run", build(TranslatorSettings, TINY, ALL))
    assert trainer.aware is not None
    assert trainer.aware.prototypes is not None
    steps = iter(trainer.batches(0))
    for step in range(5):
        trainer.step(step, next(steps))
    assert trainer.aware.prototypes.seen.all()
    assert trainer.aware.prototypes.known().shape == (2, 16)


@pytest.mark.parametrize("judge", [Edges(), Crops()])
def test_a_frozen_judge_compares_objects(labelled: Path, tmp_path: Path, judge: nn.Module) -> None:
    before = [parameter.clone() for parameter in judge.parameters()]
    extra = {"faithful": {"judge": "mine", "weights": {"object": 1.0}}}
    asked = []

    def load(spec: str, dataset: Path) -> nn.Module:
        assert dataset == labelled
        asked.append(spec)
        return judge

    run_recipe(labelled, tmp_path / "run", [TINY, extra], load_judge=load)
    assert asked == ["mine"]
    assert metrics(tmp_path / "run")[-1]["object"] > 0
    assert all(torch.equal(*pair) for pair in zip(before, judge.parameters(), strict=True))
    with pytest.raises(ConfigError, match="load_judge"):
        run_recipe(labelled, tmp_path / "other", [TINY, extra])
    with pytest.raises(ConfigError, match=r"set faithful\.judge"):
        run_recipe(labelled, tmp_path / "other", [TINY, {"faithful": {"weights": {"object": 1.0}}}])
    assert not (tmp_path / "other").exists()


def test_weights_say_which_night_boxes_they_have_seen(labelled: Path, tmp_path: Path) -> None:
    path = labelled / "annotations" / "train_B.json"
    for boxes, says, told in (("real", "real", True), (str(path), "pseudo", "pseudo"), (None, "none", None)):
        out = tmp_path / says
        run_recipe(labelled, out, [TINY | {"steps": 1}, ALL if boxes else {}, {"faithful": {"night_boxes": boxes}}])
        assert read_night_boxes(out / "last.safetensors") == says
        assert Translator.load(out, device="cpu").settings.get("night_boxes") == told


def test_a_judge_that_saw_night_labels_is_named_and_another_one_is_refused(labelled: Path, tmp_path: Path) -> None:
    judge, out = Edges(), tmp_path / "run"
    judge.night_boxes = None  # type: ignore[assignment]
    extra = {"faithful": {"judge": "mine", "weights": {"object": 1.0}}, "steps": 1}
    said: list[str] = []
    run_recipe(labelled, out, [TINY, extra], say=said.append, load_judge=lambda *_: judge, dry_run=True)
    assert any("whether mine has seen labels of night images is not known" in line for line in said)
    judge.night_boxes = True  # type: ignore[assignment]
    run_recipe(labelled, out, [TINY, extra], say=said.append, load_judge=lambda *_: judge)
    assert read_night_boxes(out / "last.safetensors") == "real"
    assert any("0 night boxes (real)" in line for line in said)
    run_recipe(labelled, out, [TINY, extra], resume=True, load_judge=lambda *_: judge)
    # The same name, other weights: trained anew in its place.
    with pytest.raises(ConfigError, match="another judge"):
        run_recipe(labelled, out, [TINY, extra], resume=True, load_judge=lambda *_: Edges())


def test_cut_translates_to_night_alone_and_says_so(labelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = run_recipe(labelled, run, [TINY, {"objective": "cut", "contrast": {"places": 16, "width": 8}}])
    assert result is not None
    assert result.best_score is not None
    assert {"nce", "nce_identity"} <= set(metrics(run)[-1])
    assert not {"cycle_a", "identity_a", "adversarial_b2a", "discriminator_a"} & set(metrics(run)[-1])
    assert (run / "samples" / "step-0000006.jpg").exists()
    assert all(key.startswith("A2B.") for key in weights(run))
    read_generator(run / "last.safetensors", "day2night")
    with pytest.raises(CheckpointError, match=r"day2night alone \(objective cut, or distilled\), it has no night2day"):
        CycleGANTranslator.load(run, "night2day", "cpu")


def test_the_patch_contrast_learns(labelled: Path, tmp_path: Path) -> None:
    longer = {"steps": 40, "log_every": 10, "width": 8, "ema": 0, "sample_every": 100, "learning_rate": 1e-3}
    run_recipe(
        labelled, tmp_path / "run", [TINY, {"objective": "cut", "contrast": {"places": 32, "width": 16}}, longer]
    )
    rows = metrics(tmp_path / "run")
    assert rows[-1]["nce"] < 0.8 * rows[0]["nce"]


@pytest.mark.parametrize(
    ("faithful", "more", "expected"),
    [
        ({"weights": {"hallucination_outside": 0.2}}, {}, r"need the head: set faithful\.weights\.segmentation=1"),
        ({"weights": {"segmentation": 1}}, {}, r"learns from boxes: set faithful\.night_boxes=real"),
        ({"inside": 2}, {"objective": "cut"}, "objective cut has none"),
        ({}, {"contrast": {"layers": [0, 2]}}, r"contrast\.layers: expected some of 0, 1, 4, 7, 9 to 10"),
        ({"inside": 0.5}, {}, r"faithful\.inside"),
        ({"wieghts": {}}, {}, r"did you mean 'faithful\.weights'"),
    ],
)
def test_settings_that_do_not_fit_are_explained(faithful: Any, more: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(TranslatorSettings, TINY, {"faithful": faithful}, more)


def test_plain_training_reads_no_label(labelled: Path, tmp_path: Path) -> None:
    run_recipe(labelled, tmp_path / "labelled", [TINY])
    for file in (labelled / "annotations").iterdir():
        file.write_text("damaged")
    run_recipe(labelled, tmp_path / "damaged", [TINY])
    assert same(weights(tmp_path / "labelled"), weights(tmp_path / "damaged"))
