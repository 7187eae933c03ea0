from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from compare_helpers import make_dataset, make_translated, names_of, write_part

from nightaug.errors import ConfigError, DatasetError
from nightaug.experiment.arms import asked, default_arms, expand, read_arms, shares, slug
from nightaug.experiment.compare_data import build_arm, read_data
from nightaug.experiment.compare_settings import SourceSpec
from nightaug.experiment.compare_translate import check_directions, parse_translators, render
from nightaug.runs import file_sha256


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def drives_of(frames: list) -> set[str]:
    return {frame.video for frame in frames}


# -- names -----------------------------------------------------------------------------------------------------


def test_translated_arms_come_once_a_translator_and_day_always_first() -> None:
    arms = expand(["translated", "day+night", "day+translated:gan"], {}, ["relight", "gan"])
    assert list(arms) == ["day", "translated:relight", "translated:gan", "day+night", "day+translated:gan"]
    assert [part.data for part in arms["day+translated:gan"]] == ["dataset", "translated:gan"]
    assert [part.domain for part in arms["day+night"]] == ["A", "B"]
    assert default_arms([], ["mine"]) == ["day", "night", "day+night", "mine"]
    assert slug("day+translated:gan") == "day+translated-gan"


def test_several_translators_in_one_arm() -> None:
    arms = expand(["day+translated:gan+relight", "translated+adapt:a+b"], {}, ["relight", "gan", "a+b"])
    assert [part.data for part in arms["day+translated:gan+relight"]] == [
        "dataset", "translated:gan", "translated:relight"
    ]  # fmt: skip
    assert [part.data for part in arms["translated+adapt:a+b"]] == ["translated:a+b"], "a name of its own"
    with pytest.raises(ConfigError, match="unknown translator 'a'"):
        expand(["translated:relight+a"], {}, ["relight", "a+b"])


def test_parts_weigh_the_same_where_nothing_is_said() -> None:
    for parts in expand(["day+night", "day+translated", "seed-translated"], {}, ["gan"]).values():
        assert shares(parts) == [1 / len(parts)] * len(parts)
    assert shares([SourceSpec(data="dataset", weight=3), SourceSpec(data="dataset")]) == [0.75, 0.25]


def test_an_adapted_arm_draws_labelled_images_like_the_arm_without(tmp_path: Path) -> None:
    own = read_arms(write(tmp_path / "arms.yaml", "mine: [{data: dataset, domain: A}]"))
    found = expand(["day+adapt", "day+translated+adapt", "translated+adapt:gan", "mine+adapt"], own, ["relight", "gan"])
    assert list(found) == [
        "day", "day+adapt", "day+translated+adapt:relight", "day+translated+adapt:gan", "translated+adapt:gan",
        "mine+adapt",
    ]  # fmt: skip
    plain = expand(["day+translated:gan", "mine"], own, ["gan"])
    assert found["day+adapt"] == found["day"]
    assert found["day+translated+adapt:gan"] == plain["day+translated:gan"]
    assert found["mine+adapt"] == plain["mine"]
    assert slug("day+translated+adapt:gan") == "day+translated+adapt-gan"


def test_arms_with_a_part_left_out() -> None:
    head = ["sampler", "alignment"]
    detector = {"adaptation": {"parts": head}, "clip": "m:t"}
    found = asked(None, ["day+adapt-without-alignment"], None, [], None, detector)
    assert (list(found.arms), found.ablated) == (["day", "day+adapt"], ("day+adapt-without-alignment",))
    found = asked(None, ["night"], None, ["a", "b"], "translated+adapt", detector)
    assert list(found.arms) == ["day", "night", "translated+adapt:a", "translated+adapt:b"]
    assert found.ablated == tuple(f"translated+adapt:{t}-without-{part}" for t in "ab" for part in head)
    for names, ablate, why in (
        (["day+adapt-without-teacher"], None, r"teacher is not among the parts of day\+adapt \(sampler, alignment\)"),
        (["day-without-sampler"], None, r"day has no night head to leave a part out of; use day\+adapt"),
        ([], "day", r"--ablate day: it has no night head to leave parts out of; try day\+adapt"),
        ([], "day+adpat", r"unknown arm 'day\+adpat'; did you mean 'day\+adapt'"),
    ):
        with pytest.raises(ConfigError, match=why):
            asked(None, names, None, [], ablate, detector)


def test_parts_that_do_nothing_are_no_arms(tmp_path: Path) -> None:
    # A sampler whose loss weighs nothing still chooses the nodes.
    adaptation = {"parts": ["sampler", "alignment", "node_class"], "weights": {"cluster": 0.0, "node_class": 0.0}}
    detector: dict[str, Any] = {"adaptation": adaptation, "clip": "none"}
    found = asked(None, ["night"], None, [], "day+adapt", detector)
    assert found.ablated == ("day+adapt-without-sampler",)
    assert found.notes == (
        "day+adapt-without-alignment is left out: alignment does nothing (no CLIP)",
        "day+adapt-without-node_class is left out: node_class does nothing (its weight is 0)",
    )
    found = asked(None, ["night"], None, [], "day+adapt", {**detector, "clip": "m:t"})
    assert found.ablated == ("day+adapt-without-sampler", "day+adapt-without-alignment")
    with pytest.raises(ConfigError, match=r"alignment does nothing in day\+adapt \(no CLIP\), so it is the same arm"):
        asked(None, ["day+adapt-without-alignment"], None, [], None, detector)
    # An arm of a file has a CLIP, and weights, of its own.
    file = write(
        tmp_path / "arms.yaml",
        """
mine:
  data: [{data: dataset, domain: A}]
  set: {adapt: vlmcshfg, clip: "m:t", adaptation.weights.alignment: 0, adaptation.weights.node_class: 1}
""",
    )
    assert asked(None, None, file, [], "mine", detector).ablated == ("mine-without-sampler", "mine-without-node_class")


@pytest.mark.parametrize(
    ("names", "translators", "why"),
    [
        (["day+nite"], [], "unknown arm 'day+nite'; did you mean 'day+night'"),
        (["day+translated"], [], "arm 'day+translated' needs a translator"),
        (["night+adapt"], [], "arm 'night+adapt': +adapt is for arms without night labels (day+adapt, "),
        (["seed-translated+adapt"], ["gan"], "+adapt is for arms without night labels"),
        (["translated+adapt:gn"], ["gan"], "arm 'translated+adapt:gn': unknown translator 'gn'; did you mean 'gan'"),
        (["translated:relihgt"], ["relight"], "unknown translator 'relihgt'; did you mean 'relight'"),
        (["translated:gan+relihgt"], ["gan", "relight"], "unknown translator 'relihgt'; did you mean 'relight'"),
        (["translated:gan+gan"], ["gan"], "names a translator twice"),
    ],
)
def test_unknown_names_are_one_line_with_a_hint(names: list[str], translators: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        expand(names, {}, translators)


# -- an arms file ----------------------------------------------------------------------------------------------


def test_arms_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    file = write(
        tmp_path / "arms.yaml",
        "mine:\n- {data: dataset, domain: A, weight: 3}\n- {data: 'translated:gan'}\n"
        "other: [{data: more, split: all}]\n",
    )
    own = read_arms(file)
    assert own["mine"].parts[0].weight == 3
    assert own["mine"].parts[1].domain == "B"
    assert own["other"].parts[0].data == str(tmp_path / "more")
    assert list(expand(["mine"], own, ["gan"])) == ["day", "mine"]
    with pytest.raises(ConfigError, match="unknown translator 'gan'"):
        expand(["mine"], own, ["relight"])


def test_arms_of_a_file_with_settings_of_their_own(tmp_path: Path) -> None:
    file = write(
        tmp_path / "arms.yaml",
        """
mine:
  data: [{data: dataset, domain: A}]
  set: {adapt: vlmcshfg, adaptation.parts: [sampler, matching], adaptation: {nodes: 50}, clip_gate: weigh}
plain: {data: [{data: dataset, domain: A}]}
""",
    )
    own = read_arms(file)
    assert own["mine"].settings == {
        "adapt": "vlmcshfg", "adaptation": {"parts": ["sampler", "matching"], "nodes": 50}, "clip_gate": "weigh",
    }  # fmt: skip
    assert own["plain"].settings == {}
    found = asked(None, None, file, [], "mine", {"adaptation": {"parts": ["teacher"]}})
    assert found.own == {name: arm.settings for name, arm in own.items()}
    assert found.ablated == ("mine-without-sampler", "mine-without-matching")


def test_all_mistakes_of_a_file_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "arms.yaml",
        """
day: [{data: dataset}]
'a/b': [{data: dataset}]
empty: []
words: [dataset]
keys: [{data: dataset, wieght: 2, domain: C}]
.hidden: [{data: dataset}]
heavy: [{data: dataset, weight: .inf}]
light: [{data: dataset, weight: 1.0e-9}, {data: dataset}]
split: [{data: dataset, split: trian}, {data: dataset, split: all}, {data: 'translated:x', split: test}]
data: [{data: datset}, {data: 'translatd:gan'}]
both+adapt: [{data: dataset}]
less-without-sampler: [{data: dataset}]
budget: {data: [{data: dataset}], set: {steps: 9, fcos.width: 0.5, weights: x}}
other: {data: [{data: dataset}], sett: {adapt: vlmcshfg}}
none: {set: {adapt: vlmcshfg}}
listed: {data: [{data: dataset}], set: [adapt]}
"""
        f"{'x' * 200}: [{{data: dataset}}]\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_arms(file)
    text = str(caught.value)
    assert "\n" not in text
    for said in (
        "arm 'day': the name is a built-in arm's",
        "arm 'a/b': a name has letters",
        "arm 'empty': expected a list of parts",
        "arm 'words', part 1: expected {data:",
        "did you mean 'weight'",
        "domain: Input should be 'A' or 'B'",
        "arm '.hidden': a name has letters, digits and + - . : _ only, and begins with a letter",
        "arm 'heavy', part 1: weight: Input should be",
        "arm 'light': a part with less than 0.1% of the weight",
        "arm 'split', part 1: split: Input should be 'train', 'val', 'test' or 'all'",
        "arm 'split', part 2: arms train on the train split only, all is kept",
        "arm 'split', part 3: arms train on the train split only, test is kept",
        "arm 'xxxxxxxxxxxxxxxxxxxx...': its name is longer than 120 bytes",
        "unknown data 'datset', neither 'dataset', 'translated:NAME', 'pseudo:ARM' nor a folder; did you mean",
        "did you mean 'translated:gan'",
        "arm 'both+adapt': +adapt and -without-PART are nightaug's own endings",
        "arm 'less-without-sampler': +adapt and",
        "arm 'budget': set: steps, weights cannot be an arm's own",
        "arm 'other': expected data and set, got sett",
        "arm 'none': expected a list of parts",
        "arm 'listed': set: expected setting: value, got ['adapt']",
    ):
        assert said in text


# -- translators -----------------------------------------------------------------------------------------------


def test_names_of_translators(tmp_path: Path) -> None:
    run = tmp_path / "cyclegan"
    run.mkdir()
    for file in (run / "config.yaml", run / "best.safetensors", tmp_path / "public.pth"):
        file.write_text("x: 1")
    data = make_dataset(tmp_path / "data")
    made = make_translated(tmp_path / "made", data)
    found = parse_translators(["relight", str(run), str(tmp_path / "public.pth"), str(made), f"other={run}"])
    assert list(found) == ["relight", "cyclegan", "public", "made", "other"]
    assert list(parse_translators([str(run / "best.safetensors")])) == ["cyclegan"]
    assert found["made"].model is None
    assert found["made"].is_made("day2night", tmp_path)
    assert found["cyclegan"].folder("night2day", tmp_path) == tmp_path / "translated" / "cyclegan-night2day"
    with pytest.raises(ConfigError, match="two translators are called 'relight'"):
        parse_translators(["relight", f"relight={run}"])
    with pytest.raises(ConfigError, match="expected relight, a run, a weight file"):
        parse_translators(["relihgt"])
    with pytest.raises(ConfigError, match="neither a train-translator run nor a translated folder"):
        parse_translators([str(data / "annotations")])


def test_a_translation_that_was_stopped_is_refused(tmp_path: Path) -> None:
    made = make_translated(tmp_path / "made", make_dataset(tmp_path / "data"))
    facts = {"direction": "night2day", "finished": False}
    (made / "translation.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"made: the translation is not finished; run nightaug translate again"):
        parse_translators([str(made)])
    (made / "translation.json").write_text(json.dumps(facts | {"finished": True}))
    assert list(parse_translators([str(made)])["made"].folders) == ["night2day"]


def test_images_of_other_weights_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "gan.safetensors"
    weights.write_bytes(b"first")
    source = parse_translators([f"gan={weights}"])["gan"]
    made = tmp_path / "out" / "translated" / "gan"
    made.mkdir(parents=True)
    (made / "translation.json").write_text(json.dumps({"finished": True, "checkpoint_sha": file_sha256(weights)}))
    told: list[str] = []
    assert render(source, "day2night", tmp_path, tmp_path / "out", True, told.append) == made
    weights.write_bytes(b"trained on")
    with pytest.raises(ConfigError, match=r"holds other weights than those .* give it another name"):
        render(source, "day2night", tmp_path, tmp_path / "out", True, told.append)
    weights.unlink()  # not kept: nothing to tell by
    assert render(source, "day2night", tmp_path, tmp_path / "out", True, told.append) == made
    assert told == []


def test_images_of_other_constants_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "fitted.yaml"
    file.write_text("relight: {glow: [1.0, 2.0]}")
    source = parse_translators([str(file)])["fitted"]
    made = tmp_path / "out" / "translated" / "fitted"
    made.mkdir(parents=True)
    facts = {"finished": True, "checkpoint_sha": None, "settings": {"relight": {"glow": [1.0, 2.0]}}}
    (made / "translation.json").write_text(json.dumps(facts))
    assert render(source, "day2night", tmp_path, tmp_path / "out", True, print) == made
    file.write_text("relight: {glow: [1.0, 3.0]}")
    with pytest.raises(ConfigError, match="give it another name"):
        render(source, "day2night", tmp_path, tmp_path / "out", True, print)


def test_seed_translated_needs_both_directions(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    made = make_translated(tmp_path / "made", data)
    for given, name in (("relight", "relight"), (str(made), "made")):
        translators = parse_translators([given])
        with pytest.raises(ConfigError, match=f"arm 'seed-translated:{name}'"):
            check_directions(expand(["seed-translated"], {}, list(translators)), translators)
        check_directions(expand(["day+translated"], {}, list(translators)), translators)


# -- images ----------------------------------------------------------------------------------------------------


def test_dev_is_cut_in_whole_drives_and_never_trained_on(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data"), 0.15)
    assert data.dev
    held = drives_of(data.dev)
    assert all(frame.timeofday == "night" for frame in data.dev)
    assert not held & drives_of([*data.train["A"], *data.train["B"]])
    assert len(data.dev) == 3 * len(held)  # whole drives
    assert len(data.train["A"]) == len(data.train["B"]) == 24 - len(data.dev)
    assert [f.name for f in read_data(tmp_path / "data", 0.15).dev] == [f.name for f in data.dev]
    # A translation of the same dataset is cut at the same drives, whatever its own labels say of them.
    made = make_translated(tmp_path / "made", tmp_path / "data")
    arms = expand(["day+translated"], {}, ["made"])
    arm = build_arm("day+translated:made", arms["day+translated:made"], {("made", "B"): made}, data)
    assert not held & drives_of([frame for source in arm.sources for frame in source.frames])
    assert arm.sources[1].held_back == len(data.dev)
    assert len(arm.sources[1].frames) == len(data.train["A"])


def test_a_val_split_of_other_drives_is_dev(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data", val=True), 0.15)
    assert drives_of(data.dev) == {"v0", "v1"}
    assert len(data.train["A"]) == 24
    # A val split of drives that train has too is none.
    write_part(tmp_path / "data", "val", "B", names_of(["d0"], 2, "late"))
    again = read_data(tmp_path / "data", 0.15)
    assert not drives_of(again.dev) & drives_of(again.train["A"])
    assert drives_of(again.dev) < {f"d{i}" for i in range(8)}


def test_a_test_drive_in_train_is_refused_or_noted(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    write_part(root, "test", "B", names_of(["d3", "t1"], 2, "late"))
    with pytest.raises(ConfigError, match=r"1 of 2 test drives are also in train \(such as video d3\)"):
        read_data(root, 0.15)
    data = read_data(root, 0.15, allow_shared_drives=True)
    assert any("flatter" in note for note in data.notes)
    assert "d3" not in drives_of(data.dev)


def test_drives_are_those_prepare_wrote_down(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    # As prepare knows them, all night images of drive d0 and d1 are one drive with the day images of d2.
    rows = [
        f'{{"file": "train/{domain}/{word}-{drive}-{i}.png", "drive": "ride"}}'
        for domain, word, drives in (("A", "day", ("d2",)), ("B", "night", ("d0", "d1")))
        for drive in drives
        for i in range(3)
    ]
    (root / "manifest.jsonl").write_text("\n".join(rows))
    data = read_data(root, 0.4)
    inside = {"d0", "d1"} <= drives_of(data.dev)
    assert inside or not {"d0", "d1"} & drives_of(data.dev)
    assert inside == ("d2" not in drives_of(data.train["A"]))


def test_manifest_weights_reach_the_frames(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data", val=True), 0.15)
    made = make_translated(tmp_path / "made", tmp_path / "data", {"day-d0-0.png": 0.0, "day-d0-1.png": 0.5})
    arm = build_arm("translated:m", expand(["translated"], {}, ["m"])["translated:m"], {("m", "B"): made}, data)
    frames = {frame.name: frame for frame in arm.sources[0].frames}
    assert arm.dropped == 1
    assert "day-d0-0.png" not in frames
    assert (frames["day-d0-1.png"].extra or {})["weight"] == 0.5
    assert [box.weight for box in frames["day-d0-1.png"].boxes] == [1, 1, 0]
    assert arm.boxes()["traffic light"] == 22  # 24 images: one dropped, one box dropped
    assert not arm.night_boxes
    assert arm.name == "translated:m"
    assert arm.sources[0].origins[made / "train/B/day-d0-1.png"] == data.root / "train/A/day-d0-1.png"
    before = arm.checksum
    make_translated(made, tmp_path / "data", {"day-d0-0.png": 0.0, "day-d0-1.png": 0.6})
    again = build_arm("translated:m", [arm.sources[0].spec], {("m", "B"): made}, data)
    assert again.checksum != before


def test_an_adapted_arm_sees_night_images_without_their_labels(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    data = read_data(root, 0.15)
    parts = expand(["day"], {}, [])["day"]
    day = build_arm("day", parts, {}, data)
    assert day.checksum == "9d150dbe"  # of folders that older versions have begun
    changes = {"adapt": "vlmcshfg"}
    arm = build_arm("day+adapt", parts, {}, data, changes)
    assert [frame.path for frame in arm.target] == [frame.path for frame in data.train["B"]]
    assert not any(frame.boxes or frame.extra for frame in arm.target)
    assert data.train["B"][0].boxes
    assert not drives_of(arm.target) & drives_of([*data.dev, *data.test])
    assert (day.target, day.night_boxes, arm.night_boxes) == ([], False, False)
    assert arm.name == "day+adapt"
    assert arm.boxes() == day.boxes()
    # What it adapts to and how is as much a part of it as the labelled images are.
    less = build_arm("day+adapt", parts, {}, data, {**changes, "adaptation": {"parts": ["sampler"]}})
    data.target.pop()
    fewer = build_arm("day+adapt", parts, {}, data, changes)
    assert len({day.checksum, arm.checksum, less.checksum, fewer.checksum}) == 4
    assert build_arm("day", parts, {}, data).checksum == day.checksum
    assert build_arm("day+adapt", parts, {}, data, {**changes, "workers": 3}).checksum == fewer.checksum
    data.target.clear()
    with pytest.raises(DatasetError, match=r"train/B has no night images for day\+adapt to adapt to"):
        build_arm("day+adapt", parts, {}, data, changes)


def test_night_labels_are_in_the_arms_name(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data", val=True), 0.15)
    made = make_translated(tmp_path / "made", tmp_path / "data")
    back = tmp_path / "back"
    write_part(back, "train", "A", names_of(["d0"], 3, "night"))
    arms = expand(["seed-translated", "night", "translated"], {}, ["m"])
    folders = {("m", "B"): made, ("m", "A"): back}
    built = {name: build_arm(name, parts, folders, data) for name, parts in arms.items()}
    assert built["seed-translated:m"].name == "seed-translated:m [night boxes]"
    assert built["night"].night_boxes
    assert built["night"].name == "night"  # a ceiling, its name says it
    assert not built["day"].night_boxes
    assert not built["translated:m"].night_boxes
    mine = build_arm("mine", [SourceSpec(data="dataset")], {}, data)
    assert mine.name == "mine [night boxes]"
    (made / "curated").mkdir()
    for judged, named in (("false", False), ("null", False), ("true", True)):  # by a judge that saw labelled nights
        (made / "curated/curation.json").write_text(f'{{"judge_night_boxes": {judged}}}')
        assert build_arm("t", arms["translated:m"], folders, data).night_boxes == named
    (made / "curated/curation.json").unlink()
    (made / "translation.json").write_text('{"settings": {"night_boxes": true}}')
    assert build_arm("t", arms["translated:m"], folders, data).night_boxes


def test_sources_that_are_empty_or_not_for_training(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data"), 0.15)
    with pytest.raises(ConfigError, match="train on the train split only"):
        build_arm("x", [SourceSpec(data="dataset", split="test")], {}, data)
    with pytest.raises(ConfigError, match="train on the train split only"):
        build_arm("x", [SourceSpec(data=str(tmp_path / "data"), split="test")], {}, data)
    other = tmp_path / "other"
    write_part(other, "train", "B", names_of(["t0", "t1"], 2, "copied"))  # drives of the test images
    with pytest.raises(DatasetError, match=r"no labelled image.*4 of dev or test drives"):
        build_arm("x", [SourceSpec(data=str(other))], {}, data)


def test_copies_of_test_images_are_held_back_under_any_name(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data", val=True), 0.15)
    other = tmp_path / "other"
    write_part(other, "train", "B", names_of(["n0", "n1"], 2, "mine"))
    for name, split, drive in (("mine-n0-0.png", "test", "t4"), ("mine-n1-1.png", "val", "v1")):
        copied = (data.root / split / "B" / f"night-{drive}-0.png").read_bytes()
        (other / "train" / "B" / name).write_bytes(copied)
    source = build_arm("x", [SourceSpec(data=str(other))], {}, data).sources[0]
    assert [frame.name for frame in source.frames] == ["mine-n0-1.png", "mine-n1-0.png"]
    assert source.held_back == 2


def test_a_translation_of_test_or_val_images_is_held_back_whatever_split_it_stands_in(tmp_path: Path) -> None:
    # Day images of a test drive without night images, and of a val drive.
    root = make_dataset(tmp_path / "data", val=True)
    write_part(root, "test", "A", names_of(["s0"], 1, "late"))
    data = read_data(root, 0.15)
    names = {"late-s0-0.jpg": "", "day-v0-0.jpg": "", "day-d0-0.jpg": ""}
    made = tmp_path / "made"  # by another program: no manifest, other endings, one folder for everything
    write_part(made, "train", "B", names)
    parts = expand(["translated"], {}, ["m"])["translated:m"]
    source = build_arm("translated:m", parts, {("m", "B"): made}, data).sources[0]
    assert [frame.name for frame in source.frames] == ["day-d0-0.jpg"]
    assert source.origins == {made / "train/B/day-d0-0.jpg": root / "train/A/day-d0-0.png"}
    # With a manifest of a cut of the dataset in which they were still train images.
    (made / "train" / "B").rename(tmp_path / "gone")
    write_part(root, "train", "A", {**names_of([f"d{i}" for i in range(8)], 3, "day"), "late-s0-0.png": "x"})
    make_translated(made, root)
    write_part(root, "train", "A", names_of([f"d{i}" for i in range(8)], 3, "day"))
    source = build_arm("translated:m", parts, {("m", "B"): made}, data).sources[0]
    assert (len(source.frames), source.held_back) == (24, 1)


def test_translations_give_their_train_split_only(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data"), 0.15)
    made = make_translated(tmp_path / "made", tmp_path / "data")
    with pytest.raises(ConfigError, match="train on the train split only, all is kept"):
        build_arm("x", [SourceSpec(data="translated:m", domain="B", split="all")], {("m", "B"): made}, data)


def test_real_night_labels_cannot_be_denied(tmp_path: Path) -> None:
    data = read_data(make_dataset(tmp_path / "data"), 0.15)
    with pytest.raises(ConfigError, match="its labels are those of night images"):
        build_arm("x", [SourceSpec(data="dataset", domain="B", night_boxes=False)], {}, data)
    assert not build_arm("x", [SourceSpec(data="dataset", domain="A", night_boxes=False)], {}, data).night_boxes


def test_datasets_that_cannot_be_compared_on(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    (root / "test" / "B").rename(root / "gone")
    with pytest.raises(DatasetError, match="test/B has no labelled night images"):
        read_data(root, 0.15)
    with pytest.raises(DatasetError, match="prepare it first"):
        read_data(root / "train" / "A", 0.15)


def test_an_empty_arms_file_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="it names no arm; expected NAME:"):
        read_arms(file)
