from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from compare_helpers import OPTIONS, World, arm_of
from typer.testing import CliRunner

from nightaug.cli_detect import app
from nightaug.detect.adaptation.settings import PARTS, AdaptationSettings
from nightaug.errors import ConfigError
from nightaug.experiment.compare_adapt import (
    ablated,
    ablation,
    adapted,
    arm_settings,
    differences,
    labelled,
    overrides,
    shown_clip,
    without,
)
from nightaug.experiment.compare_data import Arm
from nightaug.experiment.gap import Samples
from nightaug.experiment.report_ablation import ablation_lines
from nightaug.experiment.report_read import Ablation

HEAD = AdaptationSettings().model_dump(mode="json")
BASE = {"adapt": "none", "target": None, "clip": "none", "clip_gate": "none", "adaptation": HEAD, "batch": 4}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def base(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


# -- names and settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["day", "day+translated:relight", "translated:x-without-y", "my arm:2"])
def test_names_go_both_ways(label: str) -> None:
    assert labelled(adapted(label)) == (label, True)
    assert labelled(label) == (label, False)
    assert without(ablated(adapted(label), "node_domain")) == (adapted(label), "node_domain")
    assert without(label) == (label, None)


def test_the_ending_comes_before_the_translators_name() -> None:
    assert adapted("day+translated:relight") == "day+translated+adapt:relight"


def test_an_arm_without_adaptation_knows_nothing_of_it() -> None:
    other = base(clip="ViT-B-32:openai", adaptation={**HEAD, "nodes": 7, "context": 2.0}, batch=9)
    assert arm_settings(other, {}, translated=False) == base(batch=9)
    gated = {**other, "clip_gate": "drop"}
    assert arm_settings(gated, {}, translated=False) == base(batch=9)  # real images need no gate
    found = arm_settings(gated, {}, translated=True)
    assert (found["clip"], found["clip_gate"], found["adapt"]) == ("ViT-B-32:openai", "drop", "none")
    assert found["adaptation"] == {**HEAD, "context": 2.0}  # what the gate looks at, too
    assert arm_settings(other, {"clip_gate": "weigh"}, translated=False)["clip"] == "ViT-B-32:openai"


def test_an_adapted_arm_has_the_head_a_target_and_clip() -> None:
    changes = overrides("day+translated+adapt:gan-without-sampler", {}, PARTS)
    found = arm_settings(base(clip="m:t", clip_gate="weigh", adaptation={**HEAD, "nodes": 7}), changes, translated=True)
    assert (found["adapt"], found["clip"], found["clip_gate"]) == ("vlmcshfg", "m:t", "weigh")
    assert found["target"] is not None
    assert found["adaptation"] == {**HEAD, "nodes": 7, "parts": [part for part in PARTS if part != "sampler"]}
    day = arm_settings(base(clip="m:t", clip_gate="weigh"), overrides("day+adapt", {}, PARTS), translated=False)
    assert (day["clip"], day["clip_gate"]) == ("m:t", "none")


def test_an_arm_of_ones_own_leaves_out_its_own_parts() -> None:
    own = {"mine": {"adapt": "vlmcshfg", "adaptation": {"parts": ["teacher", "sampler"], "nodes": 5}}}
    assert overrides("mine-without-sampler", own, PARTS)["adaptation"] == {"parts": ["teacher"], "nodes": 5}
    assert overrides("mine+adapt", {"mine": {"adapt": "none", "ema": 0.5}}, PARTS) == {"adapt": "none", "ema": 0.5}
    with pytest.raises(ConfigError, match="matching is not among the parts of mine"):
        overrides("mine-without-matching", own, PARTS)


def test_differences_are_named_down_to_the_setting() -> None:
    now = base(adaptation={**HEAD, "weights": {**HEAD["weights"], "cluster": 0.5}, "cache": "there"})
    assert differences(BASE, now, ["adaptation.cache"]) == {"adaptation.weights.cluster": "was 0.001, is 0.5"}
    assert differences(base(clip="m:/a/w.pt"), base(clip="m:/b/w.pt"), []) == {}
    assert "clip" in differences(base(clip="m:/a/w.pt"), base(clip="m:/a/v.pt"), [])
    assert shown_clip("/a/clip") == "clip"
    assert (shown_clip("m:/a/w.pt"), shown_clip("local-dir:/a/b"), shown_clip("m:tag")) == (
        "m:w.pt", "local-dir:b", "m:tag",
    )  # fmt: skip


# -- what a part is worth --------------------------------------------------------------------------------------


def samples(seeds: tuple[int, ...], values: list[float]) -> Samples:
    """Two classes of equal AP, 40 replicates that scatter by 0.01 in the same way in every arm."""
    point = np.repeat(np.array(values)[:, None], 2, axis=1)
    wobble = np.random.default_rng(0).normal(0, 0.01, (1, 40, 1))
    return Samples(seeds, point, point[:, None] + wobble)


def test_a_part_is_worth_the_difference_on_the_seeds_both_have() -> None:
    arms = {name: Arm(name, []) for name in ("day", "day+adapt", *(f"day+adapt-without-{p}" for p in PARTS[:4]))}
    known = {
        "day+adapt": samples((0, 1), [0.30, 0.20]),
        "day+adapt-without-sampler": samples((0,), [0.25]),
        "day+adapt-without-alignment": samples((0, 1), [0.30, 0.18]),
        "day+adapt-without-hallucination": samples((2,), [0.3]),  # no seed in common
        "day+adapt-without-matching": samples((0,), [0.40]),
    }
    day = {"AP": {"mean": 0.2, "spread": 0.02}, "seeds": [{}, {}, {}]}
    (entry,) = ablation(arms, known, day, [0, 1], 0)
    assert (entry["arm"], entry["day_spread"], entry["day_seeds"]) == ("day+adapt", 0.02, 3)
    assert [row["part"] for row in entry["rows"]] == ["sampler", "alignment", "matching"]
    first, second, third = entry["rows"]
    assert (first["AP_with"], first["AP_without"]) == (pytest.approx(0.30), pytest.approx(0.25))
    assert first["difference"] == pytest.approx(0.05)
    assert first["low"] == pytest.approx(0.05)  # paired: what both share cancels
    assert first["high"] == pytest.approx(0.05)
    assert (first["seeds"], first["exceeds_spread"]) == ([0], True)
    assert second["difference"] == pytest.approx(0.01)
    assert (third["difference"], third["exceeds_spread"]) == (pytest.approx(-0.1), True)
    assert (second["seeds"], second["exceeds_spread"]) == ([0, 1], False)
    text = ablation_lines([msgspec.convert(entry, Ablation)])
    assert text[0] == "day+adapt with each part left out; spread of the day arm over its seeds: 2.0 AP"
    assert text[2].split("  ")[-1].strip() == "0"
    assert "+5.0 [5.0, 5.0]" in text[2]
    assert " yes " in text[2]
    assert " no " in text[3]
    single = {"AP": {"mean": 0.2, "spread": None}, "seeds": [{}]}
    (entry,) = ablation(arms, known, single, [0, 1], 0)
    assert [row["exceeds_spread"] for row in entry["rows"]] == [None] * 3
    assert ablation(arms, {"day+adapt": known["day+adapt"]}, day, [0, 1], 0) == []


# -- a comparison ----------------------------------------------------------------------------------------------


def settings_of(world: World, name: str) -> Any:
    return next(settings for row, _, settings, _, _ in world.fake.trained if row == name)


def test_adapted_arms_have_the_budget_of_the_others_and_a_target(world: World) -> None:
    table = world.run(
        arms=["day", "day+adapt", "day+translated+adapt"], steps=20, layers=[{"clip": "m:/data/w.pt"}], seeds=2
    )
    plain, adapts = settings_of(world, "day/seed1"), settings_of(world, "day+adapt/seed1")
    assert (plain.adapt, plain.target, plain.clip) == ("none", None, "none")
    assert (adapts.adapt, adapts.clip) == ("vlmcshfg", "m:/data/w.pt")
    assert adapts.target is not None
    alike = ("steps", "batch", "seed", "weights", "learning_rate")
    assert [getattr(plain, key) for key in alike] == [getattr(adapts, key) for key in alike]
    targets = {row: arm.target for row, _, _, arm, _ in world.fake.trained}
    assert len(targets["day+adapt/seed0"]) == len(targets["day+translated+adapt-gan/seed0"]) == 21
    assert targets["day/seed0"] == targets["checkpoints/seed0"] == []
    row = arm_of(table, "day+translated+adapt:gan")
    assert (row["night_boxes"], row["translator"], row["unlabelled"]) == (False, "gan", 21)
    assert arm_of(table, "day")["unlabelled"] == 0
    assert table["adapted"] == ["day+adapt", "day+translated+adapt:gan"]
    assert table["clip"] == "m:w.pt"
    assert "day+adapt: learns from 21 night images without labels, too" in table["notes"]
    assert "ablation" not in table
    # Features are looked at once an adapted arm, against its own seed's checkpoint.
    assert world.fake.embedded == [("seed0", "day+adapt", "seed0"), ("seed0", "day+translated+adapt-gan", "seed0")]
    text = "\n".join(world.lines)
    assert "day+adapt: 100% dataset train A (21 images); with 21 unlabelled night images, as many a step" in text


def test_each_part_is_left_out_once_with_the_first_seed(world: World) -> None:
    parts = ["sampler", "matching"]
    world.fake.skill |= {"day+adapt": 0.7, "day+adapt-without-sampler": 0.3, "day+adapt-without-matching": 0.7}
    wanted: dict[str, Any] = {"arms": ["day"], "ablate": "day+adapt", "seeds": 2}
    world.run(**wanted, layers=[{"adaptation": {"parts": parts}}], only=["day", "day+adapt"])
    table = world.run(arms=["day"])
    assert world.names() == ["day+adapt-without-sampler/seed0", "day+adapt-without-matching/seed0"]
    less = settings_of(world, "day+adapt-without-sampler/seed0")
    assert (less.adapt, less.adaptation.parts) == ("vlmcshfg", ("matching",))
    assert [arm["name"] for arm in table["arms"]] == ["day", "day+adapt"]
    assert not any("not finished" in note for note in table["notes"])
    assert table["notes"][0] == "demonstration, 30 images and 2 seeds"  # not the one of the parts
    sampler, matching = table["ablation"]["rows"]
    assert (sampler["part"], sampler["seeds"]) == ("sampler", [0])
    assert sampler["AP_with"] == arm_of(table, "day+adapt")["seeds"][0]["AP"]
    assert sampler["difference"] == pytest.approx(sampler["AP_with"] - sampler["AP_without"])
    assert sampler["low"] > 0
    assert table["ablation"]["day_spread"] == arm_of(table, "day")["AP"]["spread"]
    assert sampler["exceeds_spread"] == (sampler["difference"] > table["ablation"]["day_spread"])
    assert abs(matching["difference"]) < sampler["difference"]
    # A second seed where it is asked for.
    table = world.run(arms=["day"], only=["day+adapt-without-sampler@1"])
    assert world.names() == ["day+adapt-without-sampler/seed1"]
    assert [row["seeds"] for row in table["ablation"]["rows"]] == [[0, 1], [0]]


def test_without_clip_no_effect_of_alignment_is_reported(world: World) -> None:
    layers = [{"adaptation": {"parts": ["sampler", "alignment"]}}]
    table = world.run(arms=["day"], ablate="day+adapt", layers=layers)
    assert [name for name in world.names() if "without" in name] == ["day+adapt-without-sampler/seed0"]
    assert [row["part"] for row in table["ablation"]["rows"]] == ["sampler"]
    assert world.lines.count("day+adapt-without-alignment is left out: alignment does nothing (no CLIP)") == 1


def test_parts_of_several_arms(world: World) -> None:
    arms = ["day", "day+adapt-without-sampler", "day+translated+adapt-without-matching"]
    table = world.run(arms=arms)
    assert set(world.names()) >= {"day+adapt/seed0", "day+translated+adapt-gan-without-matching/seed0"}
    assert table["ablation"]["arm"] == "day+adapt"
    assert [entry["arm"] for entry in table["other_ablations"]] == ["day+translated+adapt:gan"]


def test_settings_of_adaptation_are_fixed_by_the_arms_that_use_them(world: World) -> None:
    world.run(arms=["day", "day+translated", "day+adapt"], only=["day", "day+translated:gan"])
    # CLIP and the head are no change for what was trained without, nor for what has not begun.
    world.run(arms=["day+adapt"], layers=[{"clip": "m:t", "adaptation": {"nodes": 50}}])
    assert world.names() == ["day+adapt/seed0"]
    assert settings_of(world, "day+adapt/seed0").adaptation.nodes == 50
    world.run()
    for layer, said in (
        ({"clip": "m:u"}, r"arm 'day\+adapt': clip was 'm:t', is 'm:u'"),
        ({"adaptation": {"nodes": 60}}, r"arm 'day\+adapt': adaptation.nodes was 50, is 60"),
        ({"clip_gate": "drop"}, r"arm 'day\+translated:gan': clip was 'none', is 'm:t'; .*clip_gate was 'none'"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            world.run(layers=[layer])
        assert "arm 'day'" not in str(caught.value)
    world.run(layers=[{"adaptation": {"cache": "elsewhere"}}])
    assert world.fake.trained == []


def test_a_comparison_from_before_adaptation_goes_on(world: World) -> None:
    world.run(arms=["day", "day+translated"], seeds=2, only=["@0"])
    path = world.out / "compare.yaml"
    there = yaml.safe_load(path.read_text())
    for key in ("adapt", "adaptation", "clip", "clip_gate", "target"):
        del there["detector"][key]
    for key in ("own", "ablated"):
        del there[key]
    path.write_text(yaml.safe_dump(there))
    world.run(arms=None, translators=[], seeds=None)
    assert world.names() == ["checkpoints/seed1", "day/seed1", "day+translated-gan/seed1"]
    path.write_text(yaml.safe_dump(there))
    world.run(arms=["day+adapt"], layers=[{"clip": "m:t"}], seeds=None)
    assert world.names() == ["day+adapt/seed0", "day+adapt/seed1"]


def test_night_images_nobody_has_labelled_are_adapted_to_but_not_those_of_test_drives(world: World) -> None:
    labelled = next((world.data / "train" / "B").glob("*.*"))
    for name in ("new", "of-a-test-drive"):
        shutil.copy(labelled, world.data / "train" / "B" / f"{name}{labelled.suffix}")
    row = {"file": f"train/B/of-a-test-drive{labelled.suffix}", "drive": "video t0"}
    (world.data / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    world.run(arms=["day", "day+adapt"], steps=5)
    target = next(arm.target for row, _, _, arm, _ in world.fake.trained if row == "day+adapt/seed0")
    names = {frame.name for frame in target}
    assert f"new{labelled.suffix}" in names
    assert len(names) == 22
    assert not any(frame.boxes for frame in target)


def test_a_changed_target_is_refused(world: World) -> None:
    world.run(arms=["day"])
    (world.data / "train" / "B" / "night-d0-0.png").unlink()
    world.run(arms=["day", "day+adapt"])
    assert world.names() == ["day+adapt/seed0"]
    (world.data / "train" / "B" / "night-d0-1.png").unlink()
    with pytest.raises(ConfigError, match=r"training images or settings of day\+adapt are not those"):
        world.run(arms=["day+adapt"])


def test_an_arm_with_settings_of_its_own(world: World) -> None:
    arms = world.out.parent / "arms.yaml"
    text = "mine: {data: [{data: dataset, domain: A}], set: {learning_rate: 0.5, adapt: vlmcshfg}}"
    arms.write_text(text)
    world.run(arms=["day", "mine"], arms_file=arms)
    mine = settings_of(world, "mine/seed0")
    assert (mine.learning_rate, mine.adapt, settings_of(world, "day/seed0").learning_rate) == (0.5, "vlmcshfg", 0.1)
    assert "mine: 100% dataset train A (21 images); set " in "\n".join(world.lines)
    world.run(arms=None, arms_file=None, seeds=2)  # it stays what it was
    assert settings_of(world, "mine/seed1").learning_rate == 0.5
    table = world.run(arms=["day"], ablate="mine", only=["mine-without-sampler"], seeds=2)
    assert settings_of(world, "mine-without-sampler/seed0").learning_rate == 0.5
    assert table["ablation"]["rows"][0]["part"] == "sampler"
    world.run(arms=["mine"], only=["mine"], seeds=2)
    assert world.fake.trained == []
    arms.write_text(text.replace("0.5", "0.6"))
    with pytest.raises(ConfigError, match=r"arm 'mine': learning_rate was 0\.5, is 0\.6"):
        world.run(arms=["mine"], arms_file=arms, seeds=2)
    arms.write_text(text.replace("learning_rate", "learning_rat").replace("mine", "new"))
    with pytest.raises(ConfigError, match="arm 'new': Unknown key: 'learning_rat'"):
        world.run(arms=["new"], arms_file=arms, dry_run=True)


def test_adapting_is_said_by_arms_alone(world: World) -> None:
    world.run(arms=["day"], layers=[{"adapt": "vlmcshfg", "target": "x"}], options=OPTIONS)
    assert settings_of(world, "day/seed0").adapt == "none"
    assert any("an arm adapts where it is named so" in line for line in world.lines)


def test_options_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    words = ["compare", "data", "--out", "out", "--clip", "m:/home/me/w.pt", "--ablate", "day+adapt"]
    words += ["--only", "day@0", "--only=@1"]
    monkeypatch.setattr("nightaug.experiment.compare.run_compare", lambda *_, **options: given.update(options))
    monkeypatch.setattr("sys.argv", ["nightaug", *words])
    assert CliRunner().invoke(app, words).exit_code == 0
    assert given["ablate"] == "day+adapt"
    assert given["layers"][-1]["clip"] == "m:/home/me/w.pt"
    assert given["only"] == ["day@0", "@1"]
    # A comparison trained arm by arm is one command.
    assert given["command"] == "nightaug compare data --out out --clip m:w.pt --ablate day+adapt"
