"""Label files nobody should trust: they may be refused in one line or read in part, never crash, never lead outside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nightaug.data.formats import ImageIndex, open_dataset, read_labels
from nightaug.data.formats.base import Problems, safe_name
from nightaug.errors import DatasetError, NightaugError
from nightaug.translate.plan import read_manifest

BOX = {"x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0}
FRAME = {"name": "a.jpg", "attributes": {"timeofday": "night"}, "labels": [{"category": "car", "box2d": BOX}]}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "x/../../a.jpg",
        "/etc/passwd",
        "C:\\a.jpg",
        "..\\..\\a.jpg",
        "a\n.jpg",
        "a\0.jpg",
        "",
        ".",
        "/",
        "\ud800.jpg",
        "https://x.org/..",
        "n" * 300 + ".jpg",
    ],
)
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    assert safe_name(name)[0] == ""
    path = tmp_path / "l.json"
    path.write_text(json.dumps([{**FRAME, "name": name}, FRAME]))
    labels = read_labels(path)
    assert [frame.name for frame in labels.frames] == ["a.jpg"]
    assert labels.problems.counts["unsafe image name refused"] == 1
    assert "\n" not in labels.problems.listed[0].where


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("https://h/p/x.jpg?token=1", "x.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("train/ä ö.png", "train/ä ö.png"),
        ("..a.jpg", "..a.jpg"),
    ],
)
def test_harmless_names_are_mended(name: str, clean: str) -> None:
    assert safe_name(name) == (clean, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'[{"name": "a.jpg", "labels": [', "ends too early"),
        (b'{"frames": [{"name": "a.jpg", "labels": []}', "ends too early"),
        (b'{"images": [{"id": 1', "ends too early"),
        (b'[{"name": "\xff\xfe.jpg", "labels": []}]', "UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "deep"),
        (b'[{"name": "a.jpg", "labels": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]", "deep"),
        (b'{"images": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "deep"),
        (b'[{"name": "a.jpg" "labels": []}]', "not valid JSON"),
        (b"<html>not found</html>", "JSON"),
        (b'{"version": 3}', "not a label file"),
        (b'{"frames": 3}', "list of frames"),
        (b"\xff\xfe[\0]\0", "JSON"),
    ],
)
def test_damaged_json_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=said) as caught:
        read_labels(path)
    assert "labels.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    for name, value in (("l.json", [FRAME]), ("c.json", {"images": [{"id": 1, "file_name": "a.jpg"}]})):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
        assert read_labels(tmp_path / name).frames[0].name == "a.jpg"


def test_files_of_which_nothing_was_read_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for number in range(5):
        (tmp_path / f"{number}.json").write_text("<html>")
    problems = open_dataset(tmp_path).problems
    counts, *lost, more = problems.noticed()
    assert counts == "noticed in the labels: 5 file that is no label file"
    assert [line.split(":")[0] for line in lost] == ["  0.json", "  1.json", "  2.json"]
    assert "JSON" in lost[0]
    assert more == "  ... and 2 more"
    assert problems.lost_files().startswith(" (0.json: ")
    assert Problems().noticed() == []
    assert Problems().lost_files() == ""


def test_missing_file_and_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?i)no such file"):
        read_labels(tmp_path / "nothing.json")
    with pytest.raises(DatasetError, match="no such"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="no images and no label files"):
        open_dataset(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="this is an image"):
        read_labels(tmp_path / "a.png")


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "yyyy">]><annotation><filename>&x;</filename></annotation>',
        '<?xml version="1.0"?><!doctype annotation SYSTEM "file:///etc/passwd"><annotation/>',
        "<annotation><object></annotation>",
        "<html/>",
        "",
    ],
)
def test_xml_with_entities_or_damage_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.xml"):
        read_labels(tmp_path / "a.xml")


def test_wide_xml_encoding_cannot_hide_a_doctype(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(DatasetError, match="refused"):
        read_labels(tmp_path / "a.xml")


def test_coco_entries_of_the_wrong_kind_are_skipped(tmp_path: Path) -> None:
    value = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": "640", "height": 480},
            {"id": {}},
            None,
            {"id": 2, "file_name": "../b.jpg"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]},
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4]},
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, float("nan"), 4]},
            {"image_id": 1, "category_id": 1, "bbox": "1,2,3,4"},
            "x",
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2}],
    }
    (tmp_path / "c.json").write_text(json.dumps(value))
    labels = read_labels(tmp_path / "c.json")
    assert [frame.name for frame in labels.frames] == ["a.jpg"]
    assert [box.xyxy for box in labels.frames[0].boxes] == [(1, 2, 4, 6)]
    assert len(labels.problems) == 9


def test_links_never_lead_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    Image.new("RGB", (8, 8)).save(secret / "s.jpg")
    (tmp_path / "secret.txt").write_text("x")
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "in/a.jpg")
    os.symlink(root, root / "in/loop")
    os.symlink(secret, root / "out")
    os.symlink(root / "in", root / "again")
    os.symlink(tmp_path / "secret.txt", root / "fake.jpg")
    os.symlink(tmp_path / "gone.jpg", root / "gone.jpg")
    os.symlink(secret / "s.jpg", root / "linked.jpg")
    index = ImageIndex(root)
    assert sorted(index.names) == ["in/a.jpg", "linked.jpg"]
    assert index.problems.counts == {"linked folder skipped": 2, "broken link skipped": 2}
    dataset = open_dataset(root)
    assert sorted(frame.name for frame in dataset.frames()) == ["in/a.jpg", "linked.jpg"]
    assert dataset.problems.counts == {"linked folder skipped": 2, "broken link skipped": 2}


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for name in ("pipe.jpg", "pipe.json", "pipe.xml", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    os.symlink("/dev/zero", tmp_path / "zero.json")
    dataset = open_dataset(tmp_path)
    assert [frame.name for frame in dataset.frames()] == ["a.jpg"]
    assert dataset.problems.counts == {"no ordinary file, skipped": 5}
    with pytest.raises(DatasetError):
        open_dataset(tmp_path, labels=tmp_path / "pipe.json")
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / "pipe.json")


def test_manifests_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b'{"source": "\xb0"}\n{}\n')
    with pytest.raises(DatasetError, match=r"line 1: not a row"):
        list(read_manifest(tmp_path))


def test_image_lookup_prefers_exact_then_unique(tmp_path: Path) -> None:
    for name in ("v1/x.jpg", "v2/x.jpg", "y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    index = ImageIndex(tmp_path)
    assert index.find("x.jpg", "v2") == "v2/x.jpg"
    assert index.find("v1/x.jpg") == "v1/x.jpg"
    assert index.find("x.jpg") is None  # two of them: guessing would mix up boxes
    assert index.find("y.jpg") == "y.png"
    assert index.find("y") == "y.png"
    assert index.find("deep/v1/x.jpg") == "v1/x.jpg"
    Image.new("RGB", (8, 8)).save(tmp_path / "v1/only.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "flat.jpg")
    index = ImageIndex(tmp_path)
    assert index.find("only.jpg") == "v1/only.jpg"
    assert index.find("only.jpg", "v3") is None  # video v3's own image is missing; v1's is another street
    assert index.find("v3/only.jpg") is None
    assert index.find("train2017/flat.jpg") == "flat.jpg"
    assert index.find("z.jpg") is None


numbers = st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def check_message(error: NightaugError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, junk)


boxes = mostly(st.fixed_dictionaries({key: mostly(numbers) for key in ("x1", "y1", "x2", "y2")}))
labels_ = mostly(
    st.fixed_dictionaries(
        {},
        optional={
            "category": mostly(st.sampled_from(["car", "motor", "lane", "Other Thing"])),
            "box2d": boxes,
            "id": mostly(st.integers() | st.text(max_size=4)),
            "attributes": mostly(st.dictionaries(st.sampled_from(["occluded", "trafficLightColor", "crowd"]), junk)),
        },
    )
)
frames_ = st.fixed_dictionaries(
    {"name": mostly(st.sampled_from(["a.jpg", "b/c.png", "../x.jpg", "http://h/y.jpg"]))},
    optional={
        "labels": mostly(st.lists(labels_, max_size=4)),
        "attributes": mostly(
            st.dictionaries(st.sampled_from(["timeofday", "weather", "scene"]), mostly(st.just("night")))
        ),
        "videoName": mostly(st.just("v")),
        "frames": mostly(st.lists(st.dictionaries(st.just("objects"), st.lists(labels_, max_size=3)), max_size=2)),
        "size": junk,
    },
)
coco_ = st.fixed_dictionaries(
    {},
    optional={
        "images": mostly(
            st.lists(
                mostly(
                    st.fixed_dictionaries(
                        {"id": scalars},
                        optional={"file_name": mostly(st.just("a.jpg")), "width": numbers, "height": numbers},
                    )
                ),
                max_size=3,
            )
        ),
        "annotations": mostly(
            st.lists(
                mostly(
                    st.fixed_dictionaries(
                        {"image_id": scalars, "category_id": scalars, "bbox": mostly(st.lists(numbers, max_size=5))}
                    )
                ),
                max_size=4,
            )
        ),
        "categories": mostly(
            st.lists(mostly(st.fixed_dictionaries({"id": scalars, "name": mostly(st.just("car"))})), max_size=3)
        ),
    },
)


@QUICK
@given(
    document=st.one_of(
        st.lists(mostly(frames_), max_size=4),
        frames_,
        coco_,
        st.builds(lambda f: {"frames": f}, st.lists(frames_, max_size=3)),
        st.lists(labels_, max_size=4),
        junk,
    )
)
def test_any_json_is_read_or_refused(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "l.json"
    path.write_text(json.dumps(document))
    for format in (None, "bdd100k", "scalabel", "coco"):
        try:
            labels = read_labels(path, format=format)
        except NightaugError as error:
            check_message(error)
            continue
        for frame in labels.frames:
            assert ".." not in frame.name.split("/")
            assert not frame.name.startswith("/")
            assert frame.timeofday in (None, "daytime", "night", "dawn/dusk")
            for box in frame.boxes:
                assert -1e7 < box.x1 < box.x2 < 1e7
                assert -1e7 < box.y1 < box.y2 < 1e7
                assert box.light_color in (None, "red", "yellow", "green")


@QUICK
@given(cut=st.integers(0, 2000), noise=st.binary(max_size=6), at=st.integers(0, 2000))
def test_cut_and_noisy_files_are_read_or_refused(tmp_path: Path, cut: int, noise: bytes, at: int) -> None:
    text = json.dumps([FRAME] * 5, indent=1).encode()
    path = tmp_path / "l.json"
    path.write_bytes(text[: max(0, len(text) - cut % 700)][:at] + noise + text[at:])
    try:
        read_labels(path)
    except NightaugError as error:
        check_message(error)


@QUICK
@given(text=st.text(alphabet=st.sampled_from("0123456789.- \neinfa"), max_size=80))
def test_any_yolo_text_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "labels").mkdir(exist_ok=True)
    Image.new("RGB", (20, 10)).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text(text)
    labels = read_labels(tmp_path / "labels", images=tmp_path / "images", format="yolo")
    assert len(labels.frames) == 1
    for box in labels.frames[0].boxes:
        assert box.x1 < box.x2
        assert box.category.startswith("class")


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_as_xml_or_json(tmp_path: Path, data: bytes) -> None:
    for name in ("a.xml", "a.json"):
        path = tmp_path / name
        path.write_bytes(data)
        try:
            read_labels(path)
        except NightaugError as error:
            check_message(error)
