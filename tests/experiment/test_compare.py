from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from compare_helpers import SIDE, World, arm_of, make_translated, names_of, write_part

from nightaug.data.formats import open_dataset
from nightaug.detect.truth import Truth
from nightaug.errors import CheckpointError, ConfigError, DatasetError, Interrupted
from nightaug.experiment import compare_translate
from nightaug.experiment.compare import run_compare
from nightaug.experiment.compare_rows import DETECTIONS, read_state
from nightaug.runs import lock_folder, save_weights
from nightaug.translate.pipeline import TranslateResult
from nightaug.translate.plan import Plan

FEW = ("day", "day+translated")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_comparison_from_end_to_end(world: World) -> None:
    table = world.run(steps=20, day_steps=7, seeds=2, command="nightaug compare")
    assert world.reports == [world.out]
    assert table == world.read("table.json")
    assert [arm["name"] for arm in table["arms"]] == ["day", "night", "day+night", "day+translated:gan"]
    gan = arm_of(table, "day+translated:gan")
    assert 0.2 < gan["recovered"]["day+night"]["value"] < 0.9
    assert gan["recovered"]["day+night"]["low"] < gan["recovered"]["day+night"]["value"]
    assert arm_of(table, "day")["over_day"] == {"value": 0, "low": 0, "high": 0}
    assert arm_of(table, "day+night")["recovered"]["day+night"] == {"value": 1, "low": 1, "high": 1}
    assert table["ceilings"]["day+night"]["measurable"]
    # 30 night images with 2 cars and a light each, 10 trucks.
    assert table["test"] == {"images": 30, "boxes": {"car": 60, "traffic light": 30, "truck": 10}}
    assert table["classes"] == ["car", "traffic light", "truck"]
    assert table["measured_classes"] == ["car", "traffic light"]
    assert not gan["per_class"]["truck"]["measured"]
    both = [gan["per_class"][name]["AP"] for name in ("car", "traffic light")]
    assert gan["AP"]["mean"] == pytest.approx(sum(both) / 2)
    assert gan["AP_all"]["mean"] == pytest.approx((sum(both) + gan["per_class"]["truck"]["AP"]) / 3)
    assert gan["per_class"]["car"]["change"] == pytest.approx(
        gan["per_class"]["car"]["AP"] - arm_of(table, "day")["per_class"]["car"]["AP"]
    )
    assert [row["seed"] for row in gan["seeds"]] == [0, 1]
    assert gan["AP"]["mean"] == pytest.approx(sum(row["AP"] for row in gan["seeds"]) / 2)
    assert gan["AP"]["spread"] > 0
    assert [(part["data"], part["domain"], part["weight"]) for part in gan["sources"]] == [
        ("dataset", "A", 0.5), ("translated:gan", "B", 0.5),
    ]  # fmt: skip
    assert table["notes"][0] == "demonstration, 30 images and 2 seeds"
    assert table["verdict"].startswith(
        "Demonstration, 30 images and 2 seeds: with day+translated:gan no measured class"
    )
    assert " % of the night gap (" in table["verdict"]
    assert table["others"] == []
    assert table["command"] == "nightaug compare"
    assert (table["steps"], table["day_steps"], table["batch"]) == (20, 7, 4)


def test_files_for_the_page(world: World) -> None:
    world.fake.skill["day"] = 0.6
    table = world.run()
    truth = Truth.read(world.out / "truth.json")
    assert len(truth.images) == 30
    images = world.read("images.json")
    assert sorted(map(int, images)) == [image["id"] for image in truth.images]
    assert all(Path(path).name == image["file_name"] for path, image in zip(images.values(), truth.images, strict=True))
    pairs = world.read("pairs.json")
    assert len(pairs) == 6
    assert {pair["arm"] for pair in pairs} == {"day+translated:gan"}
    for pair in pairs:
        assert Path(pair["source"]).parent == world.data / "train" / "A"
        assert Path(pair["translated"]) == world.made / "train" / "B" / Path(pair["source"]).name
        assert Path(pair["source"]).exists()
    for arm in table["arms"]:
        for row in arm["seeds"]:
            folder = world.out / row["folder"]
            assert folder == world.out / "runs" / arm["slug"] / f"seed{row['seed']}"
            assert json.loads((folder / "detections.json").read_text())
            for name in ("metrics.json", "dev_metrics.json"):
                assert json.loads((folder / name).read_text())["confusion"]["score"] == table["score"]
    # Wrong boxes of the stand-in score 0 to 0.4, right ones 0.5 to 0.9.
    assert 0.15 < table["score"] <= 0.55


def test_every_arm_has_the_same_budget_and_starts_from_the_days_checkpoint(world: World) -> None:
    world.run(steps=20, day_steps=7, seeds=2)
    by_name = {name: (settings, arm) for name, _, settings, arm, _ in world.fake.trained}
    assert len(by_name) == len(world.fake.trained) == 2 + 4 * 2
    for seed in (0, 1):
        first, day = by_name.pop(f"checkpoints/seed{seed}")
        assert (first.steps, first.seed, first.weights) == (7, seed, None)
        assert [source.spec.domain for source in day.sources] == ["A"]
    for name, (settings, arm) in by_name.items():
        seed = int(name[-1])
        assert (settings.steps, settings.batch, settings.seed, settings.patience) == (20, 4, seed, None)
        assert settings.weights == str(world.out / "checkpoints" / f"seed{seed}" / "last.safetensors")
        assert sum(source.weight for source in arm.sources) == pytest.approx(1)
        assert len({source.weight for source in arm.sources}) == 1  # half and half


def test_no_drive_of_dev_or_test_is_trained_on(world: World) -> None:
    world.run(seeds=2, arms=["day", "day+translated"])
    devs = [[frame.name for frame in dev] for *_, dev in world.fake.trained]
    assert all(dev == devs[0] for dev in devs)  # one cut for all seeds and arms
    held = {frame.video for frame in world.fake.trained[0][4]} | {f"t{i}" for i in range(10)}
    for *_, arm, _ in world.fake.trained:
        for source in arm.sources:
            assert source.frames
            assert not held & {frame.video for frame in source.frames}


def test_with_trained_weights_there_is_no_day_checkpoint(world: World) -> None:
    table = world.run(weights="some/run")
    assert table["day_steps"] is None
    assert not (world.out / "checkpoints").exists()
    assert {settings.weights for _, _, settings, _, _ in world.fake.trained} == {"some/run"}
    other = World(world.out.parent / "other")
    other.run(layers=[{"pretrained": "COCO_V1"}], arms=["day"])
    assert other.names() == ["day/seed0"]


def test_finished_rows_are_neither_trained_nor_tested_again(world: World) -> None:
    first = world.run()
    assert len(world.fake.detected) == 2 * 4  # dev and test, once a row
    assert sum(images == 30 for *_, images in world.fake.detected) == 4
    before = {path: path.stat().st_mtime_ns for path in world.out.rglob("*detections.json")}
    again = world.run()
    assert world.fake.trained == []
    assert world.fake.detected == []
    assert again["arms"] == first["arms"]
    assert before == {path: path.stat().st_mtime_ns for path in world.out.rglob("*detections.json")}
    # Nor without weights, which are large and need not be kept ...
    for path in (world.out / "runs").rglob("last.safetensors"):
        path.unlink()
    world.run()
    assert world.fake.detected == []
    # ... but a detector with other weights is another one.
    (world.out / "runs" / "night" / "seed0" / "last.safetensors").write_bytes(b"others")
    world.run()
    assert [row for row in world.fake.detected if row[2] == 30] == [("night", "seed0", 30)]


def test_nothing_needs_to_be_said_again(world: World) -> None:
    first = world.run(steps=20, layers=[{"learning_rate": 0.5}], arms=["day", "day+translated"])
    again = run_compare(world.data, world.out, backend=world.fake, report=lambda folder, say: folder)
    assert again["arms"] == first["arms"]
    assert again["steps"] == 20


def test_a_comparison_of_a_version_with_fewer_settings_goes_on(world: World) -> None:
    world.run(arms=["day"])
    path = world.out / "compare.yaml"
    text = path.read_text()
    path.write_text(text.replace("  learning_rate: 0.1\n", "").partition("commands:")[0])
    assert path.read_text() != text
    world.run(arms=["day", "night"])
    assert world.names() == ["night/seed0"]
    path.write_text(text.replace("  learning_rate: 0.1\n", ""))
    # Weights that have lost their row.json are somebody's work all the same.
    (world.out / "runs" / "day" / "seed1").mkdir()
    kept = world.out / "runs" / "day" / "seed1" / "notes.txt"
    for path in (kept, kept.with_name("last.safetensors")):
        path.write_text("mine")
    world.run(arms=["day"], seeds=2)
    assert kept.exists()
    with pytest.raises(ConfigError, match=r"learning_rate was 0.1, is 0.2"):
        world.run(layers=[{"learning_rate": 0.2}])


def test_stopped_inside_an_arm_it_goes_on_there(world: World) -> None:
    world.fake.stop_in.add(("night", "seed0"))
    with pytest.raises(Interrupted, match=r"stopped in night, seed 0, at step 3; run the same command again"):
        world.run()
    assert world.names() == ["checkpoints/seed0", "day/seed0", "night/seed0"]
    assert not (world.out / "table.json").exists()
    state = read_state(world.out / "runs" / "night" / "seed0")
    assert state is not None
    assert (world.out / "runs" / "night" / "seed0" / "state").exists()
    assert (state.step, state.trained) == (3, False)
    world.run()
    assert world.names()[:2] == ["night/seed0", "day+night/seed0"]
    assert not (world.out / "runs" / "night" / "seed0" / "state").exists()  # of no use any more
    assert "day/seed0" not in world.names()


@pytest.mark.parametrize("row", ["checkpoints", "day", "night"])
def test_stopped_in_the_last_step_of_a_row_it_trains_no_other(world: World, tmp_path: Path, row: str) -> None:
    (tmp_path / "whole").mkdir()
    whole = World(tmp_path / "whole").run(arms=["day", "night"])
    world.fake.stop_at_end_of.add((row, "seed0"))
    with pytest.raises(Interrupted, match=r"stopped after .*, seed 0; run the same command again to go on"):
        world.run(arms=["day", "night"])
    assert world.names()[-1] == f"{row}/seed0"
    assert not (world.out / "table.json").exists()
    again = world.run(arms=["day", "night"])
    assert f"{row}/seed0" not in world.names()
    assert [arm["AP"] for arm in again["arms"]] == [arm["AP"] for arm in whole["arms"]]


def test_stopped_with_the_last_translated_image_it_trains_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compare_translate.translate

    def pressed(plan: Plan, *given: Any, progress: Any) -> TranslateResult:
        def show(done: int, note: str) -> None:
            if done == len(plan.items):
                signal.raise_signal(signal.SIGINT)

        return real(plan, *given, progress=show)

    monkeypatch.setattr(compare_translate, "translate", pressed)
    with pytest.raises(Interrupted, match="stopped while translating by relight; run the same command again"):
        world.run(translators=["relight"], arms=["translated"], cpu=True)
    assert world.names() == ["checkpoints/seed0", "day/seed0"]
    monkeypatch.setattr(compare_translate, "translate", None)  # all of them are there
    world.run(translators=["relight"], arms=["translated"], cpu=True)
    assert world.names() == ["translated-relight/seed0"]


def test_a_second_ctrl_c_is_no_traceback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(world.fake, "detect", interrupted)
    with pytest.raises(Interrupted, match="run the same command again"):
        world.run(arms=["day"])
    monkeypatch.undo()
    world.run(arms=["day"])  # the folder is free again
    assert "day/seed0" not in world.names()
    assert ("day", "seed0", 30) in world.fake.detected


def test_changed_settings_are_refused_all_at_once(world: World) -> None:
    world.run(arms=FEW)
    with pytest.raises(ConfigError) as caught:
        world.run(arms=FEW, steps=99, layers=[{"batch": 8, "learning_rate": 1.0, "workers": 3}])
    text = str(caught.value)
    for said in ("steps was 10, is 99", "batch was 4, is 8", "learning_rate was 0.1, is 1.0", "choose another --out"):
        assert said in text
    assert "workers" not in text
    world.run(arms=FEW, layers=[{"workers": 3}], options={"min_boxes": 5, "bootstrap": 50})
    assert world.fake.trained == []
    arms = world.out.parent / "arms.yaml"
    arms.write_text("mine: [{data: dataset, domain: A}]")
    world.run(arms=["mine"], arms_file=arms)
    arms.write_text("mine: [{data: dataset, domain: B}]")
    with pytest.raises(ConfigError, match="arm 'mine' has other parts"):
        world.run(arms=["mine"], arms_file=arms)


def test_arms_that_find_nothing_are_named(world: World) -> None:
    world.fake.skill["day"] = 0.0
    notes = world.run(arms=["day", "day+night"])["notes"]
    assert [note for note in notes if "not one detection is right" in note] == [
        "not one detection is right in day: train for longer before comparing"
    ]


@pytest.mark.parametrize("setting", [{"rename": {"truck": "car"}}, {"classes": ["car"]}, {"exclude": ["truck"]}])
def test_settings_that_choose_among_labels_are_refused(world: World, setting: dict[str, Any]) -> None:
    """The test images would have the classes that the arms no longer have."""
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} cannot be set in a comparison"):
        world.run(arms=["day"], layers=[setting])
    assert not world.out.exists()


def test_other_weights_to_start_from_are_refused(world: World) -> None:
    world.run(arms=["day"])
    start = world.out / "checkpoints" / "seed0" / "last.safetensors"
    kept = start.read_bytes()
    start.write_bytes(b"trained anew")
    for arms in (["day"], ["day+night"]):
        with pytest.raises(ConfigError, match="weights"):
            world.run(arms=arms)
        assert world.fake.trained == []
    start.write_bytes(kept)
    world.run(arms=["day+night"])
    assert world.names() == ["day+night/seed0"]
    # Folders an older version has begun do not say what they started from.
    for path in world.out.rglob("row.json"):
        row = json.loads(path.read_text())
        del row["start"]
        path.write_text(json.dumps(row))
    world.run(arms=["night"])
    assert world.names() == ["night/seed0"]


@pytest.mark.parametrize("key", ["pretrained", "detector"])
def test_another_file_under_the_name_of_the_first_weights_is_refused(world: World, key: str) -> None:
    """A YOLO's .pt file that was trained on meanwhile: arms still to come would start ahead of the others."""
    start = world.out.parent / "yolo.pt"
    start.write_bytes(b"as published")
    world.run(arms=["day"], layers=[{key: str(start)}])
    start.write_bytes(b"trained on")
    with pytest.raises(ConfigError, match="weights"):
        world.run(arms=["night"])
    assert world.fake.trained == []
    start.write_bytes(b"as published")
    world.run(arms=["night"])
    assert world.names() == ["night/seed0"]


@pytest.mark.parametrize("older", [False, True])
def test_a_comparison_goes_on_from_another_working_folder(
    world: World, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """Its files were looked for in the folder it is called from; older versions wrote them down as they were typed."""
    monkeypatch.chdir(world.out.parent)
    Path("own").mkdir()
    for name in ("own/yolo.pt", "own/clip.pt", "first.safetensors"):
        Path(name).write_bytes(b"weights")
    files = {"pretrained": "own/yolo.pt", "clip": "ViT-B-32:own/clip.pt", "weights": "first.safetensors"}
    world.run(arms=["day"], detector="own/yolo.pt", layers=[files])
    if older:
        settings = world.out / "compare.yaml"
        settings.write_text(settings.read_text().replace(f"{world.out.parent}/own/", "own/"))
        world.run(arms=["day"], detector="own/yolo.pt", layers=[files])
    (world.out.parent / "elsewhere").mkdir()
    monkeypatch.chdir(world.out.parent / "elsewhere")
    table = world.run(arms=["night"])
    used = world.fake.trained[0][2].model_dump()
    assert used["detector"] == used["pretrained"] == str(world.out.parent / "own" / "yolo.pt")
    assert used["weights"] == str(world.out.parent / "first.safetensors")
    assert f"clip: ViT-B-32:{world.out.parent}/own/clip.pt" in (world.out / "compare.yaml").read_text()
    assert table["detector"] == "yolo.pt", "a table names no one's folders"


def test_a_known_translator_keeps_its_meaning_also_before_it_is_used(world: World) -> None:
    """The table would call another translator's images by the first one's name."""
    world.run(translators=["relight"], arms=["day", "translated"], only=["day"])
    with pytest.raises(ConfigError, match="translator 'relight' was model relight, is day2night gan"):
        world.run(translators=[f"relight={world.made}"], arms=None)
    assert world.fake.trained == []


def test_an_arm_may_have_images_of_another_prepared_dataset(world: World) -> None:
    """Its manifest.jsonl is not that of a translation."""
    other = world.out.parent / "rain"
    write_part(other, "train", "A", names_of(["r0"], 2, "rain"))
    (other / "prepare.json").write_text("{}")
    (other / "manifest.jsonl").write_text('{"file": "train/A/rain-r0-0.png", "drive": "r0"}\n')
    arms = world.out.parent / "arms.yaml"
    arms.write_text("mine: [{data: dataset, domain: A}, {data: rain}]")
    table = world.run(arms=["mine"], arms_file=arms)
    assert [source["images"] for source in arm_of(table, "mine")["sources"]] == [21, 2]


def test_damaged_detections_are_one_line_and_can_be_made_again(world: World) -> None:
    first = world.run(arms=FEW)
    path = world.out / "runs" / "day" / "seed0" / DETECTIONS
    sound = path.read_bytes()
    for bad in (sound[:-100], sound.replace(b'"image_id":30', b'"image_id":99'), b"[]\n}", b'[{"score": 1}]'):
        path.write_bytes(bad)
        with pytest.raises(DatasetError, match=r"detections.json .*remove that file and run compare again"):
            world.run(arms=FEW)
    path.unlink()
    assert world.run(arms=FEW)["arms"] == first["arms"]
    assert world.fake.trained == []
    assert path.read_bytes() == sound


def test_the_commands_of_a_comparison_stay_in_its_table(world: World) -> None:
    world.run(arms=["day"], command="nightaug compare $DATA --steps 10")
    table = world.run(arms=["night"], command="nightaug compare $DATA --arms night")
    assert table["command"] == "nightaug compare $DATA --steps 10\nnightaug compare $DATA --arms night"
    assert world.run(arms=["night"], command="nightaug compare $DATA --arms night")["command"] == table["command"]
    # A folder an older version has begun holds none.
    path = world.out / "compare.yaml"
    path.write_text(path.read_text().partition("commands:")[0])
    assert world.run(arms=["night"], command="again")["command"] == "again"


def test_what_was_left_out_of_a_folder_of_ones_own_is_noted(world: World) -> None:
    arms = world.out.parent / "arms.yaml"
    write_part(world.out.parent / "own", "train", "B", names_of(["t0", "n0"], 2, "mine"))
    arms.write_text("mine: [{data: own}]\nMine: [{data: own}]")
    with pytest.raises(ConfigError, match="arms 'mine' and 'Mine' would share a folder"):
        world.run(arms=["mine", "Mine"], arms_file=arms)
    table = world.run(arms=["mine", "day+translated"], arms_file=arms)
    assert [note for note in table["notes"] if "held back" in note] == [
        "mine [night boxes]: 2 images of dev or test drives held back"
    ]
    arms.write_text("MINE: [{data: own}]")
    with pytest.raises(ConfigError, match="arms 'mine' and 'MINE' would share a folder"):
        world.run(arms=["MINE"], arms_file=arms)


def test_changed_images_are_refused(world: World) -> None:
    world.run(arms=FEW)
    make_translated(world.made, world.data, {"day-d0-0.png": 0.5, "day-d7-0.png": 0.5})
    with pytest.raises(ConfigError, match=r"training images or settings of day\+translated:gan are not those"):
        world.run(arms=FEW, seeds=2)
    make_translated(world.made, world.data)
    world.run(arms=FEW)
    write_part(world.data, "test", "B", names_of([f"t{i}" for i in range(9)], 3, "night"))
    with pytest.raises(ConfigError, match=r"truth.json holds other images"):
        world.run(arms=FEW)


def test_arms_and_seeds_may_be_added(world: World) -> None:
    world.run(arms=["day", "day+night"], translators=[])
    first = world.read("table.json")
    table = world.run(arms=["night"])
    assert world.names() == ["night/seed0"]
    assert [arm["name"] for arm in table["arms"]] == ["day", "day+night", "night"]
    assert arm_of(table, "day+night")["AP"] == arm_of(first, "day+night")["AP"]
    table = world.run(arms=None, seeds=2)  # a new translator, not named in any arm, and one more seed
    assert set(world.names()) == {
        "checkpoints/seed1", "day/seed1", "day+night/seed1", "night/seed1", "day+translated-gan/seed0",
        "day+translated-gan/seed1",
    }  # fmt: skip
    assert table["seeds"] == [0, 1]


def test_only_some_rows_now(world: World) -> None:
    arms = ["day", "day+night"]
    world.run(only=["checkpoint"], seeds=2, arms=arms)
    assert world.names() == ["checkpoints/seed0", "checkpoints/seed1"]
    table = world.run(only=["day", "day+night@0"], seeds=2, arms=arms)
    assert world.names() == ["day/seed0", "day+night/seed0", "day/seed1"]
    assert [arm["name"] for arm in table["arms"]] == ["day", "day+night"]
    assert [row["seed"] for row in arm_of(table, "day+night")["seeds"]] == [0]
    assert arm_of(table, "day+night")["over_day"]["value"] > 0
    assert any("not finished yet" in note and "day+night seed 1" in note for note in table["notes"])
    assert ": real night images (day+night) change AP by +" in table["verdict"]
    assert world.run(seeds=2, arms=arms)["notes"][-1].startswith("dev:")


def test_day_may_come_later(world: World) -> None:
    table = world.run(only=["day+night"], arms=["day+night"])
    row = arm_of(table, "day+night")
    assert row["over_day"] is None
    assert "not finished" in row["recovered"]["day+night"]["not_measurable"]
    assert table["score"] is None
    metrics = world.read("runs/day+night/seed0/metrics.json")
    assert metrics["confusion"]["score"] == 0.25
    world.fake.skill["day"] = 0.6
    score = world.run(arms=["day"])["score"]
    assert world.read("runs/day+night/seed0/metrics.json")["confusion"]["score"] == score != 0.25
    assert ("day+night", "seed0", 30) not in world.fake.detected  # made anew from what is there
    assert table["verdict"].endswith("nothing to compare with day only yet")


def test_ceilings_no_better_than_day_are_not_measurable(world: World) -> None:
    world.fake.skill.update({"day+night": 0.3, "night": 0.05})
    table = world.run()
    found = arm_of(table, "day+translated:gan")["recovered"]
    assert "not clearly above day only" in found["day+night"]["not_measurable"]
    assert "below day only" in found["night"]["not_measurable"]
    assert not table["ceilings"]["day+night"]["measurable"]
    assert "night gap is not measurable" in table["verdict"]


def test_a_class_that_lost_is_named(world: World) -> None:
    world.fake.blind["day+translated-gan"] = {"traffic light"}
    table = world.run()
    row = arm_of(table, "day+translated:gan")
    assert row["lost"] == ["traffic light"]
    fall = -100 * row["per_class"]["traffic light"]["change"]
    assert f"day+translated:gan traffic light lost {fall:.1f} AP against day only; over" in table["verdict"]


def test_a_class_some_arm_never_saw_is_not_measured(world: World) -> None:
    # No trucks by day: the day arm could not know them.
    write_part(world.data, "train", "A", names_of([f"d{i}" for i in range(8)], 3, "day"), trucks=False)
    table = world.run(options={"min_boxes": 5, "bootstrap": 40}, arms=["day", "night"])
    assert table["measured_classes"] == ["car", "traffic light"]
    many = world.run(options={"min_boxes": 500, "bootstrap": 40}, arms=["day", "night"])
    assert many["measured_classes"] == ["car", "traffic light", "truck"]
    assert any("no class has 500 test boxes" in note for note in many["notes"])


def test_a_dry_run_says_everything_and_writes_nothing(world: World) -> None:
    plan = world.run(dry_run=True, steps=20)
    assert not world.out.exists()
    assert world.fake.trained == []
    assert len(plan["rows"]) == 4
    text = "\n".join(world.lines)
    assert "21 day and 21 night images to train on" in text
    assert "day+translated:gan: 50% dataset train A (21 images), 50% translated:gan train B (up to 21 images)" in text
    assert "4 runs of 20 steps with 4 images each (0 done), 320 images in all" in text
    assert "day checkpoints of 20 steps to start from: 1 (0 done)" in text


def test_a_dry_run_refuses_what_the_run_would(world: World) -> None:
    world.out.mkdir()
    (world.out / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty and holds no comparison"):
        world.run(dry_run=True)
    (world.out / "thesis.txt").unlink()
    world.run(arms=FEW)
    with lock_folder(world.out), pytest.raises(ConfigError, match="in use by another process"):
        world.run(arms=FEW, dry_run=True)
    make_translated(world.made, world.data, {"day-d0-0.png": 0.5})
    with pytest.raises(ConfigError, match=r"training images or settings of day\+translated:gan are not those"):
        world.run(arms=FEW, dry_run=True)
    make_translated(world.made, world.data)
    world.run(arms=FEW, dry_run=True)
    write_part(world.data, "test", "B", names_of([f"t{i}" for i in range(9)], 3, "night"))
    with pytest.raises(ConfigError, match=r"truth.json holds other images"):
        world.run(arms=FEW, dry_run=True)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_folder_of_an_arm_that_cannot_be_used_is_refused_before_anything_is_made(world: World, dry_run: bool) -> None:
    arms = world.out.parent / "arms.yaml"
    (world.out.parent / "own").mkdir()
    arms.write_text("mine: [{data: 'translated:relight'}, {data: own}]")
    with pytest.raises(DatasetError, match="own: no"):
        world.run(arms=["mine"], arms_file=arms, translators=["relight"], dry_run=dry_run)
    assert world.fake.trained == []
    assert not (world.out / "translated").exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_can_never_translate_is_refused_before_anything_is_made(
    world: World, tmp_path: Path, dry_run: bool
) -> None:
    run = tmp_path / "detector"
    run.mkdir()
    save_weights(run / "best.safetensors", {"weight": torch.zeros(1)}, {"nightaug": '{"kind": "detector"}'})
    with pytest.raises(CheckpointError, match=r"best\.safetensors holds a detector, not a translator"):
        world.run(translators=[f"gan={run}"], dry_run=dry_run)
    assert world.fake.trained == []
    assert not world.out.exists()
    world.run()  # with a translator, under the same name


def test_a_detector_that_cannot_be_made_is_refused_and_can_be_mended(world: World, tmp_path: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match="unknown detector 'nosuch'"):
            world.run(arms=["day"], detector="nosuch", dry_run=dry_run)
    teacher = {"detector": "nosuch"}
    with pytest.raises(ConfigError, match="unknown detector 'nosuch'"):
        world.run(arms=["day+self"], teacher=teacher)
    world.run(arms=["day"], teacher=teacher)  # who labels nothing need not be made
    assert world.names() == ["checkpoints/seed0", "day/seed0"]


def test_settings_under_which_no_step_was_made_can_be_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arm: Any, dev: Any, classes: Any, out: Path, settings: Any, cpu: Any) -> None:
        (out / "config.yaml").write_text("learning_rate: 0.1\n")
        raise CheckpointError("nothere: no such weights")

    with monkeypatch.context() as patch:
        patch.setattr(world.fake, "train", fail)
        with pytest.raises(CheckpointError, match="nothere"):
            world.run(arms=["day"], steps=20)
    assert (world.out / "checkpoints" / "seed0" / "row.json").is_file()
    world.run(arms=["day"], steps=30, layers=[{"learning_rate": 0.2}])
    assert [(row[2].steps, row[2].learning_rate) for row in world.fake.trained] == [(20, 0.2), (30, 0.2)]
    assert not (world.out / "checkpoints" / "seed0" / "config.yaml").exists(), "of the attempt that failed"
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.2, is 0\.3"):
        world.run(arms=["day"], layers=[{"learning_rate": 0.3}])


def test_relight_is_translated_here_train_only_and_once(world: World) -> None:
    table = world.run(translators=["relight"], arms=["day", "translated"], cpu=True)
    made = world.out / "translated" / "relight"
    assert len(open_dataset(made).frames("train", "B")) == 24
    assert not (made / "test").exists()
    assert arm_of(table, "translated:relight")["sources"][0]["images"] == 21
    image = made / "train" / "B" / "day-d0-0.png"
    before = image.stat().st_mtime_ns
    world.run(translators=["relight"], arms=["day", "translated", "day+translated"])
    assert image.stat().st_mtime_ns == before
    assert world.names() == ["day+translated-relight/seed0"]


def test_folders_that_are_something_else_are_left_alone(world: World) -> None:
    with pytest.raises(ConfigError, match="lies in the dataset"):
        run_compare(world.data, world.data / "compare", backend=world.fake)
    world.out.mkdir()
    (world.out / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty and holds no comparison"):
        world.run()
    assert os.listdir(world.out) == ["thesis.txt"]
    (world.out / "thesis.txt").unlink()
    with lock_folder(world.out), pytest.raises(ConfigError, match="in use by another process"):
        world.run()


def test_the_version_of_the_sample_world_is_found(world: World) -> None:
    source = world.data.parent / "world"
    source.mkdir()
    (source / "world.json").write_text('{"world_version": "1.0"}')
    (world.data / "prepare.json").write_text(json.dumps({"settings": {"sources": [[str(source), None]]}}))
    assert world.run(arms=["day"])["world_version"] == "1.0"
    assert world.run(arms=["day"], world_version="2")["world_version"] == "2"


def test_detections_are_boxes_of_the_originals(world: World) -> None:
    world.run(arms=["day"])
    rows = world.read(f"runs/day/seed0/{DETECTIONS}")
    assert all(0 <= row["bbox"][0] < SIDE for row in rows)
    assert {row["image_id"] for row in rows} == set(range(1, 31))
