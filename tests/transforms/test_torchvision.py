from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import picture
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from nightaug.errors import ConfigError
from nightaug.transforms import DayToNight
from nightaug.transforms.torchvision import TorchvisionNight

NAMES = ["car", "traffic light"]
ARRAY = picture(0, 80, 56)
XYXY = torch.tensor([[10.0, 20, 60, 50], [65, 5, 75, 25]])
LABELS = torch.tensor([0, 1])
IMAGE = tv_tensors.Image(torch.from_numpy(ARRAY).permute(2, 0, 1).contiguous())
LIT = (slice(None), slice(5, 25), slice(65, 75))


def night(epoch: int | None = 0, **arguments: Any) -> TorchvisionNight:
    core = DayToNight(**({"p": 1.0, "strength": 1.0, "classes": NAMES} | arguments))
    if epoch is not None:
        core.set_epoch(epoch)
    return core.torchvision()


def boxes(format: str = "XYXY", values: torch.Tensor = XYXY) -> tv_tensors.BoundingBoxes:
    made = tv_tensors.BoundingBoxes(values, format="XYXY", canvas_size=(56, 80))
    return made if format == "XYXY" else v2.ConvertBoundingBoxFormat(format)(made)


def target(format: str = "XYXY") -> dict[str, Any]:
    return {"boxes": boxes(format), "labels": LABELS, "id": 7}


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    core = DayToNight(p=1.0, strength=1.0, classes=NAMES)
    core.set_epoch(0)
    return torch.from_numpy(core(ARRAY, XYXY.numpy(), LABELS.numpy())).permute(2, 0, 1)


class Sample(NamedTuple):
    image: Any
    target: Any


@pytest.mark.parametrize("format", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_of_every_format_light_lamps_and_stay(format: str, expected: torch.Tensor) -> None:
    given = target(format)
    image, out = night()(IMAGE, given)
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert torch.equal(image, expected)
    assert out["boxes"] is given["boxes"]
    assert out["labels"] is LABELS
    assert out["id"] == 7
    dark = night(classes=[])(IMAGE, given)[0]
    assert image[LIT].max() > int(dark[LIT].max()) + 60


def test_turned_boxes_count_with_the_box_around_them() -> None:
    turned = tv_tensors.BoundingBoxes(torch.tensor([[70.0, 15, 10, 20, 0.0]]), format="CXCYWHR", canvas_size=(56, 80))
    image, _ = night()(IMAGE, {"boxes": turned, "labels": torch.tensor([1])})
    plain, _ = night()(IMAGE, {"boxes": boxes(values=XYXY[1:]), "labels": torch.tensor([1])})
    assert torch.equal(image, plain)


def test_any_nesting(expected: torch.Tensor) -> None:
    step = night()
    pil = PIL.Image.fromarray(ARRAY)
    assert torch.equal(step({"a": [IMAGE], "b": (target(), "x")})["a"][0], expected)
    named = step(Sample(IMAGE, target()))
    assert isinstance(named, Sample)
    assert torch.equal(named.image, expected)
    assert torch.equal(step(IMAGE, boxes(), LABELS)[0], expected)
    assert torch.equal(step({"image": IMAGE, "boxes": boxes(), "category_ids": [0, 1]})["image"], expected)
    out = step(pil, target())[0]
    assert isinstance(out, PIL.Image.Image)
    assert torch.equal(v2.functional.pil_to_tensor(out), expected)
    plain = step(torch.tensor(np.asarray(IMAGE)), target())[0]
    assert type(plain) is torch.Tensor
    assert torch.equal(plain, expected)
    assert step(IMAGE).float().mean() < IMAGE.float().mean(), "without boxes"
    getter = DayToNight(p=1.0, strength=1.0, classes=NAMES).torchvision(lambda sample: sample[1]["what"])
    getter.set_epoch(0)
    assert torch.equal(getter(IMAGE, {"boxes": boxes(), "what": LABELS})[0], expected)


def test_floats_keep_their_type(expected: torch.Tensor) -> None:
    for dtype in (torch.float32, torch.float16):
        image = v2.ToDtype(dtype, scale=True)(IMAGE)
        out = night()(image, target())[0]
        assert isinstance(out, tv_tensors.Image)
        assert out.dtype == dtype
        assert torch.equal((out.float() * 255).round().to(torch.uint8), expected)


def test_floats_that_resizing_took_a_little_outside_are_taken() -> None:
    torch.manual_seed(0)
    sky = tv_tensors.Image(torch.rand(3, 40, 60).round())  # steep edges between black and white
    resized = v2.Resize((56, 80), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)(sky)
    assert resized.max() > 1.0
    assert resized.min() < 0.0
    assert night()(resized, target())[0].shape == resized.shape
    with pytest.raises(ConfigError, match="before the step that normalises"):
        night()(v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(resized), target())


def test_images_of_one_sample_share_the_draw_and_have_their_own_boxes() -> None:
    step = night()
    second = {"boxes": boxes(values=XYXY[:1]), "labels": LABELS[:1]}
    left, right = step([IMAGE, IMAGE], [target(), second])[0]
    assert torch.equal(left, step(IMAGE, target())[0])
    assert torch.equal(right, step(IMAGE, second)[0])
    assert not torch.equal(left, right)
    with pytest.raises(ConfigError, match="2 images and 1 sets of boxes"):
        step([IMAGE, IMAGE], target())


def test_it_stands_among_other_steps() -> None:
    pipeline = v2.Compose([
        v2.RandomHorizontalFlip(1.0),
        night(epoch=None),
        v2.RandomHorizontalFlip(1.0),
        v2.ToDtype(torch.float32, scale=True),
        v2.SanitizeBoundingBoxes(),
    ])  # fmt: skip
    image, out = pipeline(IMAGE, target())
    assert image.shape == IMAGE.shape
    assert image.dtype == torch.float32
    assert torch.equal(out["boxes"], XYXY)
    assert torch.equal(out["labels"], LABELS)
    state = torch.random.get_rng_state()
    night(epoch=None)(IMAGE, target())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "DayToNight('relight', p=1" in repr(pipeline)


def test_days_come_back_as_they_were() -> None:
    given = (IMAGE, target())
    assert night(p=0.0)(given) is given
    half = night(epoch=None, p=0.5)
    outs = [half(IMAGE) is IMAGE for _ in range(40)]
    assert 8 < sum(outs) < 32


class Frames(torch.utils.data.Dataset[Any]):
    def __init__(self, step: TorchvisionNight) -> None:
        self.step = step

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        image = torch.from_numpy(picture(index, 24, 16)).permute(2, 0, 1)
        return int(self.step(tv_tensors.Image(image)).long().sum())


def test_workers_do_not_change_the_night() -> None:
    step = night(epoch=3, p=0.5, strength=None)
    seen = [[int(v) for v in DataLoader(Frames(step), num_workers=n, batch_size=1)] for n in (0, 1, 2)]
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 6


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((IMAGE[None],), "single images .* put it before batches"),
        ((torch.zeros(2, 3, 8, 8),), "single images"),
        ((tv_tensors.Video(torch.zeros(2, 3, 8, 8)),), "does not take videos"),
        ((tv_tensors.Image(torch.zeros(1, 8, 8)),), "colour images"),
        ((PIL.Image.new("L", (8, 8)),), "RGB images, got PIL mode L"),
        ((torch.full((3, 8, 8), -1.0),), "before the step that normalises"),
        ((torch.zeros(3, 8, 8, dtype=torch.int64),), "uint8, or floats"),
        (({"labels": LABELS},), "found no image"),
        ((IMAGE, {"boxes": boxes()}), "no labels beside the boxes"),
    ],
)
def test_what_it_cannot_take(sample: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        night()(*sample)
