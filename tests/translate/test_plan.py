from __future__ import annotations

from pathlib import Path

import pytest
from helpers import picture, scalabel

from nightaug.data.frames import Box, Frame
from nightaug.errors import DatasetError
from nightaug.images import write_image
from nightaug.translate.plan import (
    ManifestRow,
    image_seed,
    inputs_checksum,
    make_plan,
    manifest_line,
    read_manifest,
    summary,
)


def test_only_the_sources_time_of_day_enters(tmp_path: Path) -> None:
    root = scalabel(tmp_path, ["daytime", "night", "dawn/dusk", None])
    plan = make_plan(root, "day2night")
    assert [item.source[-10:] for item in plan.items] == ["0000-a.jpg", "0003-a.jpg"]
    assert plan.skipped == {"not daytime": 2}
    assert [item.source[-10:] for item in make_plan(root, "night2day").items] == ["0001-a.jpg", "0003-a.jpg"]
    assert len(make_plan(root, "day2night", all_times=True).items) == 4
    assert len(make_plan(root, "day2night", limit=1).items) == 1
    assert "2 images, 2 boxes; left out: 2 not daytime" in summary(plan)


def test_a_folder_an_image_and_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "sub" / "a.png", picture())
    write_image(tmp_path / "in" / "b.jpg", picture())
    assert sorted(item.output for item in make_plan(tmp_path / "in", "day2night").items) == ["b.jpg", "sub/a.png"]
    assert [item.output for item in make_plan(tmp_path / "in" / "b.jpg", "day2night").items] == ["b.jpg"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError):
        make_plan(tmp_path / "none", "day2night")
    with pytest.raises(DatasetError, match="no such file"):
        make_plan(tmp_path / "absent", "day2night")
    scalabel(tmp_path / "nights", ["night"])
    with pytest.raises(DatasetError, match=r"nothing to translate \(1 not daytime\)"):
        make_plan(tmp_path / "nights", "day2night")


def test_formats_and_collisions(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "b.bmp", "c.JPEG"):
        write_image(tmp_path / name, picture()) if not name.endswith("bmp") else (tmp_path / name).write_bytes(_bmp())
    assert sorted(item.output for item in make_plan(tmp_path, "day2night").items) == [
        "a.jpg",
        "a.png",
        "a.webp",
        "b.jpg",
        "c.JPEG",
    ]
    as_jpg = [item.output for item in make_plan(tmp_path, "day2night", "jpg").items]
    assert sorted(as_jpg) == ["a.jpg", "a_png.jpg", "a_webp.jpg", "b.jpg", "c.jpg"]


def _bmp() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "BMP")
    return stream.getvalue()


def test_prepared_day_images_go_to_the_night_domain(domains: Path) -> None:
    plan = make_plan(domains, "day2night")
    assert {item.output.rsplit("/", 1)[0] for item in plan.items} == {"train/B", "val/B"}
    assert {item.source.rsplit("/", 1)[0] for item in plan.items} == {"train/A", "val/A"}
    assert plan.skipped == {"not daytime": 8}


def test_only_one_split_if_asked(domains: Path) -> None:
    plan = make_plan(domains, "day2night", split="val")
    every = make_plan(domains, "day2night")
    assert plan.items == [item for item in every.items if item.source.startswith("val/")] != []
    assert len(plan.items) + sum(plan.skipped.values()) == len(every.items) + sum(every.skipped.values())
    assert make_plan(domains, "day2night", split="all").items == every.items
    with pytest.raises(DatasetError, match=r"no split test; choose one with --split \(train, val, or all\)"):
        make_plan(domains, "day2night", split="test")


def test_seeds_depend_on_name_and_seed_alone() -> None:
    assert image_seed("a", 0) == image_seed("a", 0)
    assert len({image_seed("a", 0), image_seed("b", 0), image_seed("a", 1)}) == 3


def test_labels_that_are_lit_differently_have_another_checksum() -> None:
    corners = (10.0, 20.0, 60.0, 50.0)
    kinds = [
        Box(*corners, "car"), Box(*corners, "car", crowd=True), Box(*corners, "car", occluded=True),
        Box(*corners, "truck"), Box(*corners, "traffic light", "red"), Box(*corners, "traffic light", "green"),
    ]  # fmt: skip
    assert len({inputs_checksum(Frame("x.jpg", [box])) for box in kinds}) == len(kinds)
    plain = inputs_checksum(Frame("x.jpg", [Box(*corners, "car")]))
    assert inputs_checksum(Frame("x.jpg", [Box(*corners, "car", occluded=False, id="7", weight=0.5)])) == plain


def row(output: str) -> ManifestRow:
    return ManifestRow(
        source="s", output=output, sha256="0", translator="relight", checkpoint_sha=None, direction="day2night", seed=1,
        source_timeofday="daytime",
        inputs=0,
    )  # fmt: skip


def test_manifest_survives_a_torn_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    assert list(read_manifest(tmp_path)) == []
    path.write_bytes(manifest_line(row("a")) + manifest_line(row("b"))[:20])
    assert [r.output for r in read_manifest(tmp_path)] == ["a"]
    path.write_bytes(b"{broken\n" + manifest_line(row("b")))
    with pytest.raises(DatasetError, match="line 1"):
        list(read_manifest(tmp_path))
