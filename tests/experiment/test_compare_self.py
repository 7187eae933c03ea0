from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from compare_helpers import World, arm_of

from nightaug.errors import CheckpointError, ConfigError
from nightaug.experiment.arms import asked, expand, read_arms
from nightaug.experiment.compare_adapt import overrides

SELF = "day+translated+self:gan"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def parts(name: str, own: dict[str, Any] | None = None, translators: tuple[str, ...] = ("gan",)) -> dict[str, Any]:
    found = expand([name], own or {}, translators)
    return {arm: [(part.data, part.domain, part.weight) for part in some] for arm, some in found.items()}


def test_the_ending_brings_the_teacher_with_it_and_gives_its_labels_half_of_the_batch() -> None:
    assert parts("day+translated+self") == {
        "day": [("dataset", "A", 1)],
        "day+translated:gan": [("dataset", "A", 1), ("translated:gan", "B", 1)],
        SELF: [("dataset", "A", 1), ("translated:gan", "B", 1), ("pseudo:day+translated:gan", "B", 2)],
    }
    assert list(parts("day+translated+self:a+b", translators=("a", "b"))) == [
        "day", "day+translated:a+b", "day+translated+self:a+b",
    ]  # fmt: skip
    # A second round: labels of the first round's student, and no others.
    again = parts("day+self+self")
    assert list(again) == ["day", "day+self", "day+self+self"]
    assert again["day+self+self"] == [("dataset", "A", 1), ("pseudo:day+self", "B", 1)]
    # The teacher adapts, its student does not.
    assert list(parts("day+adapt+self")) == ["day", "day+adapt", "day+adapt+self"]
    assert overrides("day+adapt", {}, []) == {"adapt": "vlmcshfg"}
    assert overrides("day+adapt+self", {}, []) == {}


def test_mistakes_with_teachers_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\+self is for arms without night labels \(day\+self, "):
        parts("day+night+self")
    with pytest.raises(ConfigError, match=r"unknown arm 'dya\+self'|unknown arm 'dya'"):
        parts("dya+self")
    with pytest.raises(ConfigError, match="unknown translator 'gun'"):
        parts("day+translated+self:gun")


def test_an_arms_file_names_teachers_and_cannot_go_in_a_circle(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text(
        "mine: {data: [{data: dataset, domain: A}, {data: 'pseudo:day+translated:gan', weight: 3}], set: {ema: 0.9}}\n"
    )
    own = read_arms(file)
    assert list(parts("mine", own)) == ["day", "day+translated:gan", "mine"]
    assert parts("mine", own)["mine"][1] == ("pseudo:day+translated:gan", "B", 3)
    # Its student has its settings.
    sets = {name: arm.settings for name, arm in own.items()}
    assert overrides("mine+self", sets, []) == {"ema": 0.9}
    assert asked(None, ["mine+self"], file, ["gan"], None, {"adaptation": {"parts": []}}).own == {"mine": {"ema": 0.9}}
    file.write_text("mine: [{data: 'pseudo:day+translated'}]\n")
    several = read_arms(file)
    with pytest.raises(ConfigError, match=r"pseudo:day\+translated is several arms; name one of"):
        parts("mine", several, ("a", "b"))
    file.write_text("one: [{data: 'pseudo:two'}]\ntwo: [{data: 'pseudo:one'}]\n")
    round_and_round = read_arms(file)
    with pytest.raises(ConfigError, match="arm 'one' would label images for itself"):
        parts("one", round_and_round)
    file.write_text("one: [{data: 'pseudo:'}, {data: 'pseudo:day', domain: A}]\nx+self: [{data: dataset}]\n")
    with pytest.raises(ConfigError, match=r"part 1: expected pseudo:ARM.*part 2: expected.*'x\+self': \+self is"):
        read_arms(file)


def test_every_seed_learns_from_its_own_teacher(world: World) -> None:
    table = world.run(arms=["day+translated+self"], steps=20, seeds=2)
    order = [
        f"{arm}/{seed}" for seed in ("seed0", "seed1") for arm in ("day+translated-gan", "day+translated+self-gan")
    ]
    trained = [row[0] for row in world.fake.trained if "translated" in row[0]]
    assert trained == order
    night = len(world.fake.trained[-1][3].sources[2].frames)
    assert [row[:2] for row in world.fake.labelled] == [
        ("day+translated-gan", "seed0"),
        ("day+translated-gan", "seed1"),
    ]
    assert 0 < night < world.fake.labelled[0][2]
    for row in world.fake.trained:
        if "+self" in row[0]:
            *_, labels = row[3].sources
            assert labels.weight == 0.5
            # The boxes the teacher of this seed has given, not those of the dataset.
            assert {box.xyxy for frame in labels.frames for box in frame.boxes} == {(5.0 + row[1], 5, 25 + row[1], 25)}
    row = arm_of(table, SELF)
    assert [seed["seed"] for seed in row["seeds"]] == [0, 1]
    assert not row["night_boxes"]
    assert f"{SELF}: learns from {night} night images that day+translated:gan has labelled, too" in table["notes"]
    assert row["sources"][2] == {
        "data": "pseudo:day+translated:gan", "split": "train", "domain": "B", "weight": 0.5, "images": night,
    }  # fmt: skip


def test_what_was_labelled_is_not_labelled_again(world: World) -> None:
    first = world.run(arms=["day+self"], steps=20)
    labelled = list(world.fake.labelled)
    # Finished rows need no weights, their labels need no teacher.
    shutil.rmtree(world.out / "runs" / "day" / "seed0" / "state", ignore_errors=True)
    (world.out / "runs" / "day" / "seed0" / "last.safetensors").unlink()
    again = world.run(arms=["day+self"])
    assert world.fake.trained == []
    assert world.fake.labelled == labelled
    assert arm_of(again, "day+self")["AP"] == arm_of(first, "day+self")["AP"]
    # A row of the student alone brings what it needs.
    world.run(arms=["day+self"], seeds=2, only=["day+self@1"])
    assert [row[0] for row in world.fake.trained] == ["checkpoints/seed1", "day/seed1", "day+self/seed1"]
    # Labels that are gone cannot be made without the teacher's weights.
    shutil.rmtree(world.out / "pseudo" / "day" / "seed0")
    with pytest.raises(CheckpointError, match=r"no last\.safetensors to label images by"):
        world.run()


def test_a_teacher_that_is_sure_of_nothing_stops_no_other_row(world: World) -> None:
    world.fake.unsure = {"day"}
    table = world.run(arms=["day+self", "day+translated+self"], steps=20)
    assert [arm["slug"] for arm in table["arms"]] == ["day", "day+translated-gan", "day+translated+self-gan"]
    assert "not finished yet: day+self seed 0" in table["notes"]
    assert any(
        line.startswith("day+self, seed 0 is left out: the detector is sure of nothing;") for line in world.lines
    )


def test_labels_of_another_teacher_are_refused(world: World) -> None:
    world.run(arms=["day+self"], steps=20)
    facts = world.out / "pseudo" / "day" / "seed0" / "pseudo_labels.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "weights_sha256": "0"}))
    with pytest.raises(ConfigError, match="holds the labels of another detector"):
        world.run()


def test_a_teacher_with_night_boxes_marks_its_student(world: World, tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("both: [{data: dataset}]\nlearner: [{data: dataset, domain: A}, {data: 'pseudo:both'}]\n")
    table = world.run(arms=["learner"], arms_file=file, steps=20)
    assert arm_of(table, "learner [night boxes]")["night_boxes"]


def test_the_plan_says_what_is_labelled_and_how_long_the_rest_takes(world: World) -> None:
    world.run(arms=["day+self"], steps=20, dry_run=True)
    text = "\n".join(world.lines)
    assert "day+self: 50% dataset train A (" in text
    assert "50% pseudo:day train B (of " in text
    assert "to go" not in text
    assert world.fake.trained == []
    world.run(arms=["day+self"], steps=20, only=["day"])
    for path in world.out.glob("*/**/row.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "wall_s": 40.0}))
    world.lines.clear()
    world.run(arms=["day+self"], dry_run=True)
    # Twenty steps in 40 s: one more run of twenty.
    assert "about 40 s of training to go, by what the finished run took" in world.lines


def test_a_teacher_may_be_trained_for_longer_than_its_row(world: World) -> None:
    world.run(arms=["day+self"], steps=20, teacher_steps=50, dry_run=True)
    assert "teachers, trained for 50 steps: 1 (0 done)" in world.lines
    table = world.run(arms=["day+self"], teacher_steps=50, steps=20)
    assert [(row[0], row[2].steps) for row in world.fake.trained] == [
        ("checkpoints/seed0", 20), ("day/seed0", 20), ("day/seed0", 50), ("day+self/seed0", 20),
    ]  # fmt: skip
    assert [row[:2] for row in world.fake.labelled] == [("day", "seed0")]
    assert (world.out / "teachers" / "day" / "seed0" / "row.json").is_file()
    assert table["teacher_steps"] == 50
    assert [arm["slug"] for arm in table["arms"]] == ["day", "day+self"]
    assert any("images that day, trained for 50 steps, has labelled, too" in note for note in table["notes"])
    # It goes on without being told again, and every seed has its own.
    world.run(arms=["day+self"], seeds=2)
    assert [(row[0], row[2].steps) for row in world.fake.trained][-2:] == [("day/seed1", 50), ("day+self/seed1", 20)]
    with pytest.raises(ConfigError, match="teacher_steps was 50, is 60"):
        world.run(teacher_steps=60)


def test_several_teachers_label_together(world: World) -> None:
    table = world.run(arms=["day+self"], teachers=2, steps=20)
    assert "teachers, trained 2 times for 20 steps: 2 (0 done)" in world.lines
    assert "day, seed 0, as a teacher 2 of 2" in world.lines
    places = [(path.relative_to(world.out).as_posix(), path.exists()) for path in world.fake.teachers[0]]
    assert places == [("teachers/day/seed0", True), ("teachers/day/seed0-2", True)]
    # The same start and images, drawn in another order than that of any row.
    taught = [row[2] for row in world.fake.trained if row[0] in ("day/seed0", "day/seed0-2")]
    first, second = ((one.seed, one.weights) for one in taught[-2:])
    assert (first[0], second[0]) == (0, 1000)
    assert first[1] == second[1]
    assert table["teachers"] == 2
    assert any("images that day, trained 2 times for 20 steps, has labelled" in note for note in table["notes"])
    with pytest.raises(ConfigError, match="teachers was 2, is 1"):
        world.run(teachers=1)
    # The labels are of both: not those of one of them trained anew.
    (world.out / "teachers" / "day" / "seed0-2" / "last.safetensors").write_bytes(b"another")
    with pytest.raises(ConfigError, match="holds the labels of another detector"):
        world.run()


def test_how_right_labels_are_to_be_is_said_once(world: World) -> None:
    table = world.run(arms=["day+self"], teacher_precision=0.45, steps=20)
    assert table["teacher_precision"] == 0.45
    world.run(seeds=2)
    assert world.fake.precisions == [0.45, 0.45]
    with pytest.raises(ConfigError, match=r"teacher_precision was 0\.45, is 0\.6"):
        world.run(teacher_precision=0.6)


def test_a_finished_comparison_trains_no_teacher_for_its_table(world: World) -> None:
    world.run(arms=["day+self"], teacher_steps=50, steps=20)
    shutil.rmtree(world.out / "pseudo")
    world.run()  # labelled anew by the teacher that is there
    shutil.rmtree(world.out / "pseudo")
    shutil.rmtree(world.out / "teachers")
    with pytest.raises(ConfigError, match=r"has learned from .*pseudo.*, which is gone; bring it back"):
        world.run()
    assert world.fake.trained == []


def test_a_teacher_that_labelled_nothing_may_be_another(world: World) -> None:
    world.fake.unsure = {"day"}
    world.run(arms=["day+self"], steps=20)
    assert any(line.endswith("; train its teacher for longer (--teacher-steps)") for line in world.lines)
    # Taken at its word.
    world.run(teacher_steps=50)
    assert ("day/seed0", 50) in [(row[0], row[2].steps) for row in world.fake.trained]
    assert any(line.endswith("(--teacher-steps and another --out)") for line in world.lines)


def test_a_teacher_may_have_settings_of_its_own(world: World) -> None:
    table = world.run(arms=["day+self"], teacher={"width": 96, "height": 64}, steps=20)
    sizes = [(row[0], row[2].width, row[2].steps) for row in world.fake.trained]
    small = world.fake.trained[0][2].width
    assert sizes == [
        ("checkpoints/seed0", small, 20),
        ("day/seed0", small, 20),
        ("day/seed0", 96, 20),
        ("day+self/seed0", small, 20),
    ]
    assert small != 96
    # It starts where its arm does.
    assert world.fake.trained[2][2].weights == world.fake.trained[1][2].weights
    assert "teachers, trained for 20 steps with width=96, height=64: 1 (0 done)" in world.lines
    assert any("day, trained for 20 steps with width=96, height=64, has labelled" in note for note in table["notes"])
    assert table["teacher"] == {"width": 96, "height": 64}
    world.run(arms=["day+self"], seeds=2)
    assert [(row[0], row[2].width) for row in world.fake.trained][-2:] == [("day/seed1", 96), ("day+self/seed1", small)]
    with pytest.raises(ConfigError, match="teacher setting width was 96, is 128"):
        world.run(teacher={"width": 128})


def test_settings_of_teachers_that_nobody_learns_from_are_said_to_do_nothing(world: World) -> None:
    words = "no arm learns from what another labels (+self): how teachers are trained changes nothing"
    world.run(arms=["day"], teacher={"width": 96}, steps=20, dry_run=True)
    assert words in world.lines
    world.lines.clear()
    world.run(arms=["day+self"], teacher={"width": 96}, steps=20)
    world.run(arms=["day+self"])  # all is done
    assert words not in world.lines


def test_a_teacher_of_another_architecture_starts_anew(world: World) -> None:
    world.run(arms=["day+self"], teacher={"detector": "yolo11n"}, steps=20)
    teacher = next(row for row in world.fake.trained if row[2].detector == "yolo11n")
    assert (teacher[0], teacher[2].weights) == ("day/seed0", None)


def test_files_of_a_teacher_hold_from_any_folder_and_tables_do_not_name_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    table = world.run(arms=["day+self"], teacher={"detector": "large.pt"}, steps=20)
    teacher = next(row for row in world.fake.trained if str(row[2].detector).endswith("large.pt"))
    assert teacher[2].detector == str(tmp_path / "large.pt")
    assert table["teacher"] == {"detector": "large.pt"}
    assert not any(str(tmp_path) in note for note in table["notes"])


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"widht": 96}, r"--teacher-set: .*widht"),
        ({"steps": 9}, "a teacher's steps are said with --teacher-steps"),
        ({"classes": ["car"], "seed": 1}, "--teacher-set classes, seed: a teacher has its arm's images and classes"),
    ],
)
def test_settings_no_teacher_can_have_are_refused(world: World, teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.run(arms=["day+self"], teacher=teacher, steps=20)
    assert world.fake.trained == []


def test_labels_of_a_longer_teacher_are_not_those_of_the_row(world: World) -> None:
    world.run(arms=["day+self"], steps=20)
    with pytest.raises(ConfigError, match="teacher_steps was None, is 50"):
        world.run(teacher_steps=50)
    # As long as the row is no other teacher.
    world.run(arms=["day+self"], teacher_steps=20)
