from __future__ import annotations

import errno
from pathlib import Path, PurePosixPath

import pytest

from nightaug.data.results import link_out, result_suffix, writing
from nightaug.errors import NightaugError


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.JPG", ".JPG"), ("b/a.jpeg", ".jpeg"), ("a.webp", ".webp"), ("a.bmp", ".jpg"), ("a", ".jpg")],
)
def test_endings_of_results(name: str, suffix: str) -> None:
    assert result_suffix(PurePosixPath(name)) == suffix


def test_links_that_lead_out(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "out2"
    (out / "own").mkdir(parents=True)
    elsewhere.mkdir()
    (out / "near").symlink_to("own")
    assert link_out(out, ["", "own", "near", "not/there/yet"]) is None
    (out / "far").symlink_to(elsewhere)  # its path begins like that of out
    assert link_out(out, ["own", "far/below"]) == out / "far/below"


def test_what_cannot_be_written_is_said_in_one_line() -> None:
    with pytest.raises(NightaugError, match=r"^cannot write to x: the disk is full; go on$"), writing("x", "go on"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NightaugError, match=r"^cannot write to x: Permission denied; go on$"), writing("x", "go on"):
        raise PermissionError(errno.EACCES, "Permission denied")
