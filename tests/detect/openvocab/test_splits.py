from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_openvocab import write_detector_file

from nightaug.detect.openvocab.commands import probe, synthesize
from nightaug.detect.openvocab.splits import check_spelling, class_split, published_splits
from nightaug.errors import ConfigError

STREET = ("car", "bus", "truck", "traffic light")


@pytest.mark.parametrize(
    ("name", "seen", "unseen"),
    [("coco_48_17", 48, 17), ("coco_65_15", 65, 15), ("voc_16_4", 16, 4), ("dior_16_4", 16, 4)],
)
def test_the_published_splits_are_whole(name: str, seen: int, unseen: int) -> None:
    split = published_splits()[name]
    known = [*split["seen"], *split["unseen"]]
    found = class_split(name, None, known)
    assert (len(found.seen), len(found.unseen)) == (seen, unseen)
    assert not set(found.seen) & set(found.unseen)
    assert found.classes == (*found.seen, *found.unseen)
    assert found.name == name


def test_names_are_canonical_and_only_known_classes_are_seen() -> None:
    found = class_split("coco_48_17", None, ["Person", "motor", "car", "bus", "traffic light"])
    assert found.seen == ("motorcycle", "car", "pedestrian"), "as the split orders them; a traffic light is in neither"
    assert "bus" in found.unseen
    assert "umbrella" in found.unseen, "unseen classes need no boxes"


def test_own_unseen_classes() -> None:
    found = class_split(None, ["Truck", "truck", "bus"], STREET)
    assert found == ("own", ("car", "traffic light"), ("truck", "bus"))


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"seen": ["car", "bike"], "unseen": ["ambulance"]}))
    assert class_split(str(path), None, STREET) == ("mine", ("car",), ("ambulance",))
    (tmp_path / "mine.yaml").write_text("seen: [car]\nunseen: [tram]\n")
    assert class_split(str(tmp_path / "mine.yaml"), None, STREET).unseen == ("tram",)


def test_a_file_that_misspells_a_class_of_the_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seen: [car, trafic light]\nunseen: [bus, truk]\n")
    with pytest.raises(ConfigError, match=r"trafic light \(did you mean traffic light.*truk \(did you mean truck"):
        class_split(str(path), None, STREET)
    # Where the class itself has its side, the other name is meant.
    path.write_text("seen: [car, bus]\nunseen: [buss]\n")
    assert class_split(str(path), None, STREET) == ("mine", ("car", "bus"), ("buss",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"seen": ["car"]}', "'seen' and 'unseen'"),
        ('{"seen": "car", "unseen": ["bus"]}', "'seen' and 'unseen'"),
        ('{"seen": ["car", "person"], "unseen": ["pedestrian"]}', "pedestrian on both sides"),
        ('{"seen": ["cow"], "unseen": ["bus"]}', "none of its seen classes .cow. is in the dataset, which has: car"),
        ('{"seen": ["car"], "unseen": []}', "names no unseen class"),
        ("[", "not valid YAML"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        class_split(str(path), None, STREET)
    assert "\n" not in str(caught.value)


def test_errors_list_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"coco_48_17, coco_65_15, voc_16_4, dior_16_4"):
        class_split("coco", None, STREET)
    with pytest.raises(ConfigError, match=r"ambulance: not a class .*car, bus, truck, traffic light"):
        class_split(None, ["ambulance", "car"], STREET)
    with pytest.raises(ConfigError, match="no class of the dataset is left"):
        class_split(None, STREET, STREET)
    for both in (None, "coco_48_17"):
        with pytest.raises(ConfigError, match="--unseen a,b or with --class-split"):
            class_split(both, None if both is None else ["car"], STREET)


def test_names_that_are_nearly_known_ones_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"buss \(did you mean bus\?\); trcuk .*truck") as caught:
        check_spelling(["buss", "car", "Trcuk"], STREET)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"forklfit .did you mean forklift"):
        check_spelling(["forklfit"], ["forklift"])
    check_spelling(["bus", "motor", "ambulance", "food cart", "red traffic light", "forklfit"], STREET)


def test_misspelt_classes_are_taught_to_no_detector(streets: Path, tmp_path: Path) -> None:
    file = write_detector_file(tmp_path / "last.safetensors", ("car", "forklift"))
    with pytest.raises(ConfigError, match=r"buss .did you mean bus"):
        probe(file, tmp_path / "out", [], embeddings=tmp_path / "none", novel=["buss"])
    with pytest.raises(ConfigError, match=r"forklfit .did you mean forklift"):
        synthesize(file, streets, tmp_path / "out", [], unseen=["forklfit"])
    with pytest.raises(ConfigError, match=r"trafic light .did you mean traffic light"):
        synthesize(file, streets, tmp_path / "out", [], unseen=["trafic light"])
