"""What loads, what it gives, and what is said where it cannot be had."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from nightaug.clip import weights
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.weights import CONFIG_NAME
from nightaug.errors import CheckpointError, ConfigError


def test_embeddings_have_unit_length_whatever_the_batch_and_its_size(clip: Clip) -> None:
    images = torch.rand(5, 3, 32, 32)
    whole = clip.embed_images(images)
    assert whole.shape == (5, clip.width)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(torch.cat([clip.embed_images(images[:2]), clip.embed_images(images[2:])]), whole)
    assert clip.embed_images(torch.rand(1, 3, 50, 70)).shape == (1, clip.width)
    assert clip.embed_images(torch.zeros(0, 3, 32, 32)).shape == (0, clip.width)
    bytes_in = (images * 255).round().byte()
    torch.testing.assert_close(clip.embed_images(bytes_in), clip.embed_images(bytes_in.float() / 255))
    assert clip.embed_text([]).shape == (0, clip.width)


def test_frozen_and_the_same_from_folder_file_and_open_clips_own_words(clip: Clip, tiny_folder: Path) -> None:
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.model.training
    image = torch.rand(2, 3, 32, 32)
    handlers = list(logging.getLogger().handlers)
    for spec in (f"local-dir:{tiny_folder}", str(tiny_folder / "open_clip_model.safetensors")):
        other = load_clip(spec, precision="fp32")
        assert other.sha == clip.sha
        assert torch.equal(other.embed_images(image), clip.embed_images(image))
        assert torch.equal(other.embed_text(["a car"]), clip.embed_text(["a car"]))
    assert logging.getLogger().handlers == handlers  # open_clip would install one


def test_a_single_file_says_what_it_is(clip: Clip, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "open_clip_model.safetensors", tmp_path / "mine.safetensors")
    assert load_clip(str(tmp_path / "mine.safetensors"), precision="fp32").sha == clip.sha


def test_low_precision_is_close(clip: Clip, tiny_folder: Path) -> None:
    low = load_clip(str(tiny_folder), precision="bf16")
    images = torch.rand(4, 3, 32, 32)
    cosine = (low.embed_images(images) * clip.embed_images(images)).sum(1)
    assert cosine.min() > 0.99
    assert low.sha == clip.sha


def test_other_preprocessing_is_another_clip(clip: Clip, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / CONFIG_NAME).read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "other" / CONFIG_NAME).write_text(json.dumps(config))
    other = load_clip(f"local-dir:{tmp_path / 'other'}", precision="fp32")
    assert other.weights_sha == clip.weights_sha
    assert other.sha != clip.sha
    assert not torch.allclose(other.embed_images(torch.ones(1, 3, 32, 32)), clip.embed_images(torch.ones(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (
            "ViT-B-32:laion2b_s34b_b79k",
            CheckpointError,
            r"HF_HUB_OFFLINE is set.*file \(ViT-B-32:CLIP-ViT-B-32-laion2B-s34B-b79K/FILE or local-dir:FOLDER\)$",
        ),
        ("ViT-B-32:openai", CheckpointError, r"give the file \(ViT-B-32-quickgelu:FILE or local-dir:FOLDER\)$"),
        ("ViT-B-16-SigLIP:webli", CheckpointError, r"\(ViT-B-16-SigLIP:ViT-B-16-SigLIP/FILE or local-dir:FOLDER\)$"),
        ("ViT-B-32:laion2b_s34b_b79", ConfigError, "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B32:openai", ConfigError, "did you mean ViT-B-32"),
        ("ViT-B-32:missing/weights.safetensors", CheckpointError, "no such weight file"),
        ("nowhere/at/all", ConfigError, "no such CLIP folder or weight file"),
        ("local-dir:nowhere", CheckpointError, "open_clip_config.json"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(
    spec: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(kind, match=words):
        load_clip(spec)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("model", "tag", "file"),
    [
        ("ViT-B-32", "openai", "ViT-B-32.pt"),
        ("ViT-B-32", "openai", "vit_base_patch32_clip_224.openai/open_clip_model.safetensors"),
        ("ViT-B-32-quickgelu", "openai", "ViT-B-32.pt"),
        ("ViT-B-16-SigLIP", "webli", "ViT-B-16-SigLIP/open_clip_model.safetensors"),
        ("ViT-B-16-SigLIP", "webli", "models--timm--ViT-B-16-SigLIP/snapshots/0ab/open_clip_model.safetensors"),
    ],
)
def test_a_tags_own_file_has_its_settings(
    model: str, tag: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    by_file = weights.find_weights(f"{model}:{path}")
    assert (by_file.name, by_file.weights) == (f"{model}:{path.name}", path)
    monkeypatch.setattr(weights, "_fetched", lambda *given: path)
    by_tag = weights.find_weights(f"{model}:{tag}")
    assert by_file.preprocess == by_tag.preprocess
    assert by_file.preprocess.get("quick_gelu", False) == (tag == "openai")
    assert by_file.preprocess["mean"] == ((0.5,) * 3 if tag == "webli" else by_tag.preprocess["mean"])
    other = path.rename(tmp_path / "mine.pt")
    assert weights.find_weights(f"{model}:{other}").preprocess == {}, "whose it is cannot be told"


@pytest.mark.parametrize("spec", ["ViT-B-32:laion2b_s34b_b79k", "nothing"])
def test_doing_without_is_said_only_where_it_is_possible(
    spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises((CheckpointError, ConfigError), match=r"--clip none\)|or none"):
        load_clip(spec, optional=True)
    with pytest.raises((CheckpointError, ConfigError)) as needed:
        load_clip(spec)
    assert "none" not in str(needed.value)


@pytest.mark.parametrize("silent", [False, True])
def test_a_hub_that_does_not_answer_costs_seconds(monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(weights, "PATIENCE", -0.5)
    if silent:
        monkeypatch.setattr(weights, "_ask", lambda url: time.sleep(5) or "")
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:9 cannot be reached \(.+\): fetch them"):
        load_clip("ViT-B-32:datacomp_s_s13m_b4k")
    assert time.monotonic() - began < 3


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"pip install 'nightaug\[clip\]'"):
        load_clip("ViT-B-32:openai")


def test_weights_of_another_model_or_with_code_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    file = tiny_folder / "open_clip_model.safetensors"
    shutil.copytree(tiny_folder, tmp_path / "other")
    for key, value in (("embed_dim", 16), ("text_cfg", {"width": 64, "heads": 2, "layers": 1, "context_length": 24})):
        config = json.loads((tiny_folder / CONFIG_NAME).read_text())
        config["model_cfg"][key] = value
        (tmp_path / "other" / CONFIG_NAME).write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="does not fit"):
            load_clip(str(tmp_path / "other"), precision="fp32")
    shutil.copytree(tiny_folder, tmp_path / "bad")
    (tmp_path / "bad" / "open_clip_model.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="safetensors"):
        load_clip(str(tmp_path / "bad"))
    (tmp_path / "bad" / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": {"a": Path("x")}}, tmp_path / "bad" / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="refused"):
        load_clip(str(tmp_path / "bad"))
