from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.cyclegan.dataset import (
    DomainFolders,
    StepSampler,
    UnpairedCrops,
    cut_window,
    find_domains,
    make_loader,
    random_window,
    to_image,
    to_tensor,
    training_domains,
)
from nightaug.cyclegan.settings import Augmentation
from nightaug.errors import DatasetError


def crops(root: Path, seed: int = 0) -> UnpairedCrops:
    return UnpairedCrops(training_domains(root), 32, 48, Augmentation(), seed)


def test_tensor_round_trip_is_exact() -> None:
    image = picture()
    assert np.array_equal(to_image(to_tensor(image)), image)
    assert to_tensor(np.array([[[0, 255, 127]]], np.uint8)).flatten().tolist() == pytest.approx(
        [-1, 1, 127 / 127.5 - 1]
    )


def test_crops_never_squash() -> None:
    # A chequered image with square fields: fields stay square in every crop.
    y, x = np.mgrid[0:90, 0:160] // 10
    image = np.repeat((((y + x) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    rng = np.random.default_rng(0)
    for _ in range(10):
        window = random_window((90, 160), 64, 90, Augmentation(flip=False), rng)
        crop = cut_window(image, window, 64)[:, :, 0] > 127
        across, down = (np.count_nonzero(np.diff(c, axis=a), axis=a).max() for c, a in ((crop, 1), (crop, 0)))
        assert crop.shape == (64, 64)
        assert abs(int(across) - int(down)) <= 1


@pytest.mark.parametrize("size", [(16, 9), (64, 64), (31, 200)])
def test_small_images_are_enlarged_not_padded(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    window = random_window((size[1], size[0]), 64, None, Augmentation(), np.random.default_rng(0))
    crop = cut_window(image, window, 64)
    assert crop.shape == (64, 64, 3)
    assert (crop == 200).all()


def test_items_depend_on_seed_and_index_alone(domains: Path) -> None:
    first, second = crops(domains), crops(domains)
    for index in (7, 0, 3):
        second[index]
    assert torch.equal(first[5]["a"], second[5]["a"])
    assert not torch.equal(crops(domains, 1)[5]["a"], first[5]["a"])
    assert first[0]["a"].mean() > first[0]["b"].mean()


def test_an_epoch_visits_every_image_once(domains: Path) -> None:
    data = crops(domains)
    for epoch in range(2):
        seen = {data._file(0, epoch * 6 + i) for i in range(6)}
        assert len(seen) == 6
    assert [data._file(0, i) for i in range(6)] != [data._file(0, 6 + i) for i in range(6)]


def test_worker_processes_change_nothing(domains: Path) -> None:
    batches = [
        [batch["a"] for batch in make_loader(crops(domains), StepSampler(0, 3, 2, 0, 1), workers, False)]
        for workers in (0, 2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_unreadable_images_are_stepped_over(domains: Path) -> None:
    broken = domains / "train" / "A" / "trainA2.png"
    broken.write_bytes(b"no image")
    data = crops(domains)
    for i in range(6):
        assert data[i]["a"].shape == (3, 32, 32)
    assert data.unreadable == {broken}
    for path in (domains / "train" / "A").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of the 6 images of domain A"):
        crops(domains)[0]


def test_layouts_and_missing_folders(tmp_path: Path, domains: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        training_domains(tmp_path / "absent")
    with pytest.raises(DatasetError, match="nightaug prepare"):
        training_domains(tmp_path)
    (tmp_path / "public").mkdir()
    for domain in "AB":
        (tmp_path / "public" / f"train{domain}").symlink_to(domains / "train" / domain)
    assert [len(files) for files in training_domains(tmp_path / "public")] == [6, 5]
    assert find_domains(domains, "test") is None
    (tmp_path / "empty" / "train" / "A").mkdir(parents=True)
    (tmp_path / "empty" / "train" / "B").mkdir()
    with pytest.raises(DatasetError, match="train/A holds no images"):
        training_domains(tmp_path / "empty")
    assert isinstance(find_domains(domains, "val"), DomainFolders)
