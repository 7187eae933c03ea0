from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from street import TINY, interrupted_in
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import nightaug
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.config import build
from nightaug.data.formats import open_dataset
from nightaug.data.frames import Frame
from nightaug.detect.adaptation.settings import PARTS
from nightaug.detect.adaptation.trainee import AdaptedDetector
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.detectors import build_detector
from nightaug.detect.detectors.base import Target
from nightaug.detect.sampling import Source
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import SourceSpec, load_frames, load_source
from nightaug.detect.train import DetectorTrainer
from nightaug.errors import ConfigError
from nightaug.images import read_image, write_image

CLASSES = ("car", "traffic light")
CLIP = TinySettings(size=32, width=8, embed=32, text_width=32, context_length=24, steps=4, batch=8, warmup=1)
LOW = {"foreground": 0.02, "background": 0.01}  # so that a detector that knows nothing has pseudo labels


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, build_tiny(CLIP), CLIP)
    return str(folder)


def trainer(
    data: Path, out: Path, adaptation: dict[str, Any] | None = None, target: list[Frame] | None = None, **changes: Any
) -> DetectorTrainer:
    dataset = open_dataset(data)
    own = {"width": 32, "at_least": 2, "cache": str(out.parent / "regions"), **LOW, **(adaptation or {})}
    settings = {"adapt": "vlmcshfg", "target": "dataset:train:B", "adaptation": own, **changes}
    return DetectorTrainer(
        [load_source(SourceSpec("dataset", "train", "A"), dataset)],
        [],
        CLASSES,
        out,
        build(DetectorSettings, TINY, settings),
        cpu=True,
        target=load_frames(dataset, "train", "B") if target is None else target,
    )


def files(out: Path) -> tuple[bytes, str]:
    return (out / "last.safetensors").read_bytes(), (out / "metrics.jsonl").read_text()


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


ALL = {
    "parts": [*PARTS, "teacher"], "thresholds": "balanced", "foreground_floor": 0.02, "teacher": {"sure": 0.02},
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_part_trains_and_is_in_the_metrics(streets: Path, tmp_path: Path, clip: str, precision: str) -> None:
    made = trainer(streets, tmp_path / "run", ALL, clip=clip, mixed_precision=precision)
    before = {name: value.clone() for name, value in made.live.state_dict().items()}
    assert made.run().finished
    losses = {"cluster", "teacher", *PARTS} - {"sampler"}
    for row in rows(tmp_path / "run"):
        assert losses <= set(row)
        assert {"quality_auc", "target_objects", "threshold", "teacher_sure"} <= set(row)
    assert rows(tmp_path / "run")[-1]["alignment"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in made.live.state_dict().items())
    # What is saved is a detector like any other.
    assert load_detector(tmp_path / "run").classes == CLASSES


def test_a_stopped_run_ends_like_one_that_never_stopped(streets: Path, tmp_path: Path, clip: str) -> None:
    trainer(streets, tmp_path / "whole", ALL, clip=clip).run()
    with interrupted_in(1):
        assert trainer(streets, tmp_path / "halves", ALL, clip=clip).run().step == 2
    assert trainer(streets, tmp_path / "halves", ALL, clip=clip).run(resume=True).finished
    assert files(tmp_path / "whole") == files(tmp_path / "halves")


def test_labels_of_the_target_are_never_seen(streets: Path, tmp_path: Path) -> None:
    labelled = load_frames(open_dataset(streets), "train", "B")
    assert any(frame.boxes for frame in labelled)
    without = [Frame(f.name, [], f.width, f.height, f.timeofday, path=f.path) for f in labelled]
    trainer(streets, tmp_path / "with", ALL, labelled).run()
    trainer(streets, tmp_path / "without", ALL, without).run()
    assert files(tmp_path / "with") == files(tmp_path / "without")


def test_a_head_of_weight_0_leaves_the_detector_as_it_would_be(streets: Path, tmp_path: Path) -> None:
    norm = {"fcos": {"norm": "group"}, "ema": 0.0, "steps": 3}  # batch statistics would see the target's images
    weights = dict.fromkeys(("cluster", *PARTS), 0.0)
    weights.pop("sampler")
    trainer(streets, tmp_path / "mute", {"weights": weights}, **norm).run()
    trainer(streets, tmp_path / "none", adapt="none", **norm).run()
    mute, none = (load_detector(tmp_path / name).state_dict() for name in ("mute", "none"))
    for key, value in none.items():
        torch.testing.assert_close(mute[key], value, atol=2e-4, rtol=1e-3)


def test_each_part_reaches_the_detector(streets: Path, tmp_path: Path, clip: str) -> None:
    """The losses of every part but the generator's move the detector."""
    everything = {"foreground": 0.005, "background": 0.001}  # a new detector's scores are 0.01
    made = trainer(streets, tmp_path / "run", ALL | {"thresholds": "fixed", **everything}, clip=clip)
    made.look_at_regions()
    batch, target = next(made.batches(0))[0]
    made.step(0, [(batch, target)])  # fills the memory
    assert made.adapted is not None
    assert made.teacher is not None
    pseudo = made.adapted.ask(made.teacher.network, target.images, 1)
    losses = made.adapted(batch.images, batch.targets, target.images, 1, pseudo).losses
    weights = [p for p in made.live.parameters() if p.requires_grad]
    for name in set(made.adapted.loss_weights(1)) - {"hallucination"}:
        gradients = torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True)
        moved = sum(float(g.abs().sum()) for g in gradients if g is not None)
        assert moved > 0 or name == "structure", name  # structure is 0 where both domains have one node


def test_places_and_sizes_are_not_learnt_from_the_teacher_unless_asked_for(streets: Path, tmp_path: Path) -> None:
    moved = {}
    for boxes in (False, True):
        own = {"parts": ["teacher"], "teacher": {"sure": 0.02, "boxes": boxes}}
        made = trainer(streets, tmp_path / str(boxes), own)
        batch, target = next(made.batches(0))[0]
        assert made.adapted is not None
        assert made.teacher is not None
        pseudo = made.adapted.ask(made.teacher.network, target.images, 0)
        assert all(len(label.boxes) for label in pseudo.targets)
        loss = made.adapted(batch.images, batch.targets, target.images, 0, pseudo).losses["teacher"]
        branch = made.live.network.head.regression_head.bbox_reg.weight
        gradient = torch.autograd.grad(loss, branch, allow_unused=True)[0]
        moved[boxes] = gradient is not None and bool(gradient.abs().sum() > 0)
    assert moved == {False: False, True: True}


def test_a_trained_teacher_follows_slowly_whatever_is_saved(streets: Path, tmp_path: Path) -> None:
    trainer(streets, tmp_path / "day", adapt="none", target=[], steps=2).run()
    own = {"parts": ["teacher"], "teacher": {"sure": 0.02, "ema": 0.999}}
    made = trainer(streets, tmp_path / "run", own, weights=str(tmp_path / "day"), ema=0.0, learning_rate=0.01)
    assert made.run().finished
    assert made.teacher is not None
    start = load_detector(tmp_path / "day").state_dict()
    key = "network.head.classification_head.cls_logits.weight"
    away, live = (float((n.state_dict()[key] - start[key]).norm()) for n in (made.teacher.network, made.live))
    assert 0 < away < 0.01 * live


def test_without_clip_the_rest_is_trained(streets: Path, tmp_path: Path) -> None:
    trainer(streets, tmp_path / "run", steps=2).run()
    last = rows(tmp_path / "run")[-1]
    assert "alignment" not in last
    assert "matching" in last


@pytest.mark.parametrize("objects", [0, 1, 2])
def test_images_with_few_objects(objects: int) -> None:
    settings = build(
        DetectorSettings, TINY, {"adapt": "vlmcshfg", "target": "x", "adaptation": LOW | ALL | {"width": 32}}
    )
    adapted = AdaptedDetector(build_detector(settings, CLASSES), settings, 8).train()
    boxes = torch.tensor([[8.0, 8, 40, 40], [60, 10, 100, 50]])[:objects]
    label = Target(boxes, torch.arange(objects), torch.ones(objects), clip=torch.randn(objects, 8))
    images = torch.full((1, 3, 64, 128), 90, dtype=torch.uint8)
    for step in range(2):
        pseudo = adapted.ask(copy.deepcopy(adapted.detector).eval(), images, step)
        losses = adapted(images, [label], images, step, pseudo).losses
        total = sum(losses.values())
        assert bool(total.isfinite())
        total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in adapted.parameters() if p.grad is not None)


def test_a_place_that_cannot_hold_embeddings_is_one_line(streets: Path, tmp_path: Path, clip: str) -> None:
    (tmp_path / "file").write_text("")
    made = trainer(streets, tmp_path / "run", {"cache": str(tmp_path / "file" / "x")}, clip=clip)
    with pytest.raises(ConfigError, match=r"choose a place with --set adaptation\.cache"):
        made.run()


def test_what_cannot_be_trained_is_refused(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add --target NIGHT_IMAGES"):
        trainer(streets, tmp_path / "a", target=[])
    with pytest.raises(ConfigError, match="add --target NIGHT_IMAGES"):
        trainer(streets, tmp_path / "a", None, [])
    with pytest.raises(ConfigError, match="parts is empty"):
        trainer(streets, tmp_path / "a", {"parts": []})
    with pytest.raises(ConfigError, match="under the threshold of objects"):
        trainer(streets, tmp_path / "a", {"foreground": 0.3, "background": 0.4})
    with pytest.raises(ConfigError, match="needs a CLIP"):
        trainer(streets, tmp_path / "a", {"parts": ["alignment"]})


def test_a_gate_between_fewer_than_two_classes_is_refused_before_any_work(
    streets: Path, tmp_path: Path, clip: str
) -> None:
    source = load_source(SourceSpec("dataset", "train", "A"), open_dataset(streets))
    paths = [frame.path for frame in source.frames if frame.path is not None]
    settings = build(DetectorSettings, TINY, {"clip": clip, "clip_gate": "drop"})
    translated = source._replace(origins=dict.fromkeys(paths, paths[0]))
    with pytest.raises(ConfigError, match="train two or more"):
        DetectorTrainer([translated], [], ("car",), tmp_path / "run", settings, cpu=True)


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="the extra yolo is not installed")
def test_a_yolo_is_adapted_by_the_same_head(streets: Path, tmp_path: Path, clip: str) -> None:
    made = trainer(streets, tmp_path / "run", ALL, clip=clip, detector="yolo11n", steps=2)
    assert made.run().finished
    last = rows(tmp_path / "run")[-1]
    assert {"box", "cls", "dfl", "cluster", "teacher", *PARTS} - {"sampler"} <= set(last)
    assert len(made.adapted.head.own["pyramid_domain"].levels) == 3  # type: ignore[union-attr,union-attr]


class NothingWithoutADevice(TorchFunctionMode):
    """Fails where nightaug makes a tensor on the default device: on a GPU it would not be where the others are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _device_constructors() and not {"device", "generator"} & set(kwargs or {}):
            caller = sys._getframe(1)
            place = Path(caller.f_code.co_filename)
            ours = place.is_relative_to(Path(nightaug.__file__).parent)
            assert not ours, f"{place.name}:{caller.f_lineno}: {func.__name__} without a device"
        return func(*args, **(kwargs or {}))


def test_all_of_a_step_is_made_on_the_device(streets: Path, tmp_path: Path, clip: str) -> None:
    """What is averaged over steps must lie where the losses do, or the first line of metrics fails on a GPU."""
    made = trainer(streets, tmp_path / "run", ALL, clip=clip)
    made.look_at_regions()
    batch, target = next(made.batches(0))[0]
    with NothingWithoutADevice():
        found = made.losses(batch, target, 0)
    assert {"target_nodes", "threshold", "teacher_sure"} <= set(found.facts)


def test_passes_that_are_added_up_have_chance_of_their_own(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []

    def keep(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        views.append(generator.initial_seed())
        return images

    monkeypatch.setattr("nightaug.detect.adaptation.trainee.strong_view", keep)
    trainer(streets, tmp_path / "run", {"parts": ["teacher"]}, accumulate=2).run()
    assert len(set(views)) == len(views) == 2 * TINY["steps"]


def test_another_target_cannot_be_resumed(streets: Path, tmp_path: Path) -> None:
    sampler = {"parts": ["sampler"]}
    trainer(streets, tmp_path / "run", sampler, steps=2).run()
    fewer = load_frames(open_dataset(streets), "train", "B")[1:]
    with pytest.raises(ConfigError, match=r"trained on other target \(4 images, \w+, now 3 images"):
        trainer(streets, tmp_path / "run", sampler, fewer).run(resume=True)
    assert trainer(streets, tmp_path / "run", sampler).run(resume=True).step == TINY["steps"]


def test_another_clip_under_the_same_name_cannot_be_resumed(streets: Path, tmp_path: Path) -> None:
    """The rest would be trained on embeddings that have nothing to do with those of before."""
    folder = tmp_path / "clip"
    model = build_tiny(CLIP)
    write_tiny(folder, model, CLIP)
    trainer(streets, tmp_path / "run", clip=str(folder), steps=2).run()
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    write_tiny(folder, model, CLIP)
    with pytest.raises(ConfigError, match=r"trained on other CLIP \(\w+, now \w+\); resume it with the CLIP it was"):
        trainer(streets, tmp_path / "run", clip=str(folder)).run(resume=True)


def test_unreadable_images_of_the_target_are_counted(streets: Path, tmp_path: Path) -> None:
    target = load_frames(open_dataset(streets), "train", "B")
    (tmp_path / "torn.png").write_bytes(target[0].path.read_bytes()[:200])  # type: ignore[union-attr]
    target[0] = Frame("torn.png", [], path=tmp_path / "torn.png")
    assert trainer(streets, tmp_path / "run", {"parts": ["sampler"]}, target).run().unreadable == 1


def test_embeddings_may_be_kept_elsewhere_from_a_resume_on(streets: Path, tmp_path: Path, clip: str) -> None:
    trainer(streets, tmp_path / "run", clip=clip, steps=2).run()
    moved = {"cache": str(tmp_path / "elsewhere")}
    assert trainer(streets, tmp_path / "run", moved, clip=clip).run(resume=True).finished
    assert any((tmp_path / "elsewhere").iterdir())


def test_the_gate_weighs_translated_objects_and_embeds_each_crop_once(streets: Path, tmp_path: Path, clip: str) -> None:
    day = load_source(SourceSpec("dataset", "train", "A"), open_dataset(streets))
    frames, origins = [], {}
    for frame in day.frames:
        assert frame.path is not None
        path = tmp_path / frame.name
        write_image(path, read_image(frame.path) // 8)
        frames.append(Frame(frame.name, frame.boxes, frame.width, frame.height, "night", path=path))
        origins[path] = frame.path
    own = {"clip": clip, "clip_gate": "weigh", "adaptation": {"cache": str(tmp_path / "regions")}}
    settings = build(DetectorSettings, TINY, own)
    sources = [day, Source("night", frames, 1.0, origins)]
    made = DetectorTrainer(sources, [], CLASSES, tmp_path / "run", settings, cpu=True)
    said = made.look_at_regions()
    count = sum(len(frame.boxes) for frame in frames)
    assert any(f"{count} of {count} boxes judged" in line for line in said)
    assert made.language is not None
    assert len(made.language.cache) == 2 * count
    before, after = ([box.weight for f in source.frames for box in f.boxes] for source in made.mixture.sources)
    assert set(before) == {1.0}
    assert 0 <= min(after) < 1
