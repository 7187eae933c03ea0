"""A tiny open_clip model that stands in for CLIP where no weights can be had: trained in minutes on captioned crops.

It knows nothing but the crops it was trained on. Where it is used, its held-out accuracy (see
:mod:`nightaug.clip.accuracy`) belongs beside every number that depends on it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from nightaug import __version__
from nightaug.clip.encoder import Clip
from nightaug.clip.prompts import BACKGROUND
from nightaug.clip.tiny_data import Crops, captions, cut_crops, draw, positives, with_background
from nightaug.clip.weights import CONFIG_NAME, open_clip_module
from nightaug.config import Settings
from nightaug.data.frames import Frame
from nightaug.errors import CheckpointError, DatasetError
from nightaug.images import atomic_write_text
from nightaug.runs import RunFolder, StopRequest, file_sha256, progress_bar, resolve_precision, save_weights
from nightaug.training import halt, spoilt_weights

#: The name of the weights in a tiny model's folder: open_clip's own, so that ``local-dir:`` finds them.
WEIGHTS_NAME = "open_clip_model.safetensors"
#: What to go on with where the loss became NaN or infinite.
_ADVICE = "a new folder and a lower learning_rate"


class TinySettings(Settings):
    """A tiny CLIP and its training."""

    size: int = Field(64, ge=32, multiple_of=32, description="image side, pixels")
    width: int = Field(16, ge=8, multiple_of=8, description="channels of the image tower's first stage")
    blocks: tuple[int, int, int, int] = Field((1, 1, 1, 1), description="bottleneck blocks in each of its stages")
    embed: int = Field(128, ge=32, description="width of the embeddings")
    text_width: int = Field(64, ge=32, multiple_of=32)
    text_layers: int = Field(1, ge=1)
    context_length: int = Field(24, ge=16, description="tokens a caption")
    steps: int = Field(1500, ge=1)
    batch: int = Field(128, ge=8)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: int = Field(50, ge=0)
    balance: float = Field(0.5, ge=0, le=1, description="0 draws crops as they come, 1 draws all classes equally often")
    per_class: int = Field(4000, ge=1, description="crops a class at most, drawn by seed")
    background: int = Field(0, ge=0, description="places an image that show no whole object, learnt as 'background'")
    min_side: float = Field(4.0, ge=1)
    context: float = Field(1.5, ge=1)
    mixed_precision: str = "auto"
    seed: int = 0
    save_every: int = Field(250, ge=1)
    log_every: int = Field(25, ge=1)


def tiny_config(settings: TinySettings) -> dict[str, Any]:
    """open_clip's description of the model: a small ModifiedResNet and a small text transformer, shipped tokenizer."""
    return {
        "model_cfg": {
            "embed_dim": settings.embed,
            "vision_cfg": {
                "image_size": settings.size, "layers": list(settings.blocks), "width": settings.width, "head_width": 32,
            },
            "text_cfg": {
                "context_length": settings.context_length, "vocab_size": 49408, "width": settings.text_width,
                "heads": settings.text_width // 32, "layers": settings.text_layers,
            },
        },
        "preprocess_cfg": {"mean": [0.45, 0.45, 0.45], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"},
    }  # fmt: skip


def build_tiny(settings: TinySettings) -> nn.Module:
    """A new model with weights drawn by the settings' seed.

    Raises:
        ConfigError: open_clip is not installed.
    """
    open_clip = open_clip_module()
    config = tiny_config(settings)["model_cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model: nn.Module = open_clip.model.CLIP(**config)
    preprocess = tiny_config(settings)["preprocess_cfg"]
    visual: Any = model.visual
    visual.image_mean, visual.image_std = preprocess["mean"], preprocess["std"]
    return model


def write_tiny(folder: Path, model: nn.Module, settings: TinySettings) -> Path:
    """Write weights and description; ``load_clip`` takes the folder or the weight file, open_clip ``local-dir:``."""
    config = tiny_config(settings)
    text = json.dumps(config, sort_keys=True)
    save_weights(folder / WEIGHTS_NAME, model.state_dict(), {"open_clip_config": text})
    atomic_write_text(folder / CONFIG_NAME, json.dumps(config, indent=1) + "\n")
    return folder / WEIGHTS_NAME


def as_clip(model: nn.Module, settings: TinySettings, name: str = "tiny", weights_sha: str = "unsaved") -> Clip:
    """A model in memory as a frozen :class:`Clip`."""
    tokenizer = open_clip_module().SimpleTokenizer(context_length=settings.context_length)
    device = next(model.parameters()).device
    return Clip(model, tokenizer, name, tiny_config(settings), weights_sha, device)


@dataclass
class TinyResult:
    """``step`` reached, whether training ``finished``, the training crops a class, and seconds of this call."""

    step: int
    finished: bool
    crops: dict[str, int]
    wall_s: float


def train_tiny(
    frames: Sequence[Frame],
    classes: Sequence[str],
    out: Path,
    settings: TinySettings,
    resume: bool = False,
    device: str | torch.device = "cpu",
) -> TinyResult:
    """Train on the labelled boxes of ``frames`` with captions made from class, light colour and time of day.

    The loss is CLIP's, with every caption that is true of a crop as its target (a batch holds many cars). A killed run
    goes on with ``resume`` and ends with the same weights.

    Args:
        frames: of the training split only: what is measured later must not be among them.
        classes: which boxes are used.
        out: a run folder; holds the model in the end and from time to time before.

    Raises:
        DatasetError: no usable crops.
        ConfigError: the folder holds another run.
    """
    began = time.monotonic()
    device = torch.device(device)
    folder = RunFolder(out)
    ready = folder.start(settings, resume, may_change=("steps", "save_every", "log_every"))
    try:
        if settings.background:
            frames, classes = with_background(frames, settings.background, settings.seed), (*classes, BACKGROUND)
        kept = out / "crops.safetensors"  # while training goes on: cutting again would be the longest part of resuming
        crops = cut_crops(frames, classes, settings, device, kept)
        if len(crops.label) < 2:
            raise DatasetError("no labelled boxes large enough to train on; check the dataset's train split")
        folder.write_settings(settings)
        trainer = _Trainer(folder, crops, tuple(classes), settings, device)
        if ready:
            trainer.load()
        folder.log(f"nightaug {__version__}, {len(crops.label)} crops of {len(frames)} images, from {trainer.at}")
        finished = trainer.run()
        if finished:
            kept.unlink(missing_ok=True)
    finally:
        folder.close()
    counts = {name: int((crops.label == i).sum()) for i, name in enumerate(classes)}
    return TinyResult(trainer.at, finished, counts, time.monotonic() - began)


class _Trainer:
    def __init__(
        self, folder: RunFolder, crops: Crops, classes: tuple[str, ...], settings: TinySettings, device: torch.device
    ) -> None:
        self.folder, self.crops, self.classes, self.settings, self.device = folder, crops, classes, settings, device
        self.model: Any = build_tiny(settings).to(device)
        self.model.visual.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
        self.tokenizer = open_clip_module().SimpleTokenizer(context_length=settings.context_length)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate, betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        self.at = 0
        seen = tiny_config(settings)["preprocess_cfg"]
        self.mean, self.std = (torch.tensor(seen[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
        count = torch.bincount(crops.label, minlength=len(classes)).double()
        self.odds = (count[crops.label] ** -settings.balance).numpy()
        self.odds /= self.odds.sum()
        kinds = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}  # fp16 would need a loss scaler; bf16 does not
        self.low = kinds.get(resolve_precision(settings.mixed_precision, device.type == "cpu"))

    def load(self) -> None:
        step = self.folder.latest_state()
        assert step is not None
        state = self.folder.load_state(step, 0)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.folder.path}: its state does not fit its settings ({error})") from error
        if state["crops"] != self.crops.sha:
            raise CheckpointError(f"{self.folder.path} was trained on other crops; the dataset or its classes changed")
        self.at = step
        self.folder.cut_metrics(step)

    def save(self) -> None:
        halt(self.folder, {}, spoilt_weights({"tiny CLIP": self.model}), self.at, _ADVICE)
        state = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "crops": self.crops.sha,
        }  # fmt: skip
        self.folder.save_state(self.at, 0, state)
        self.folder.commit_state(self.at)
        write_tiny(self.folder.path, self.model, self.settings)

    def run(self) -> bool:
        steps = self.settings.steps
        sums, since = 0.0, self.at
        with StopRequest().listen() as stop, progress_bar("tiny CLIP", steps, self.at, "steps") as show:
            while self.at < steps and not stop.requested:
                loss = self.step(self.at)
                self.at += 1
                sums += loss
                if not math.isfinite(loss):
                    halt(self.folder, {"loss": self.at}, [], self.at, _ADVICE)
                if self.at % self.settings.log_every == 0 or self.at == steps:
                    self.folder.append_metrics(self.at, {"loss": sums / max(self.at - since, 1)})
                    show(self.at, f"loss {sums / max(self.at - since, 1):.3f}")
                    sums, since = 0.0, self.at
                if self.at % self.settings.save_every == 0 and self.at < steps:
                    self.save()
        self.save()
        return self.at >= steps

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(self.settings.warmup, 1))
        return self.settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.settings.steps))

    def step(self, step: int) -> float:
        """One step; what is drawn depends on seed and step alone."""
        rng = np.random.default_rng((self.settings.seed, step))
        chosen = rng.choice(len(self.odds), self.settings.batch, p=self.odds)
        images = draw(self.crops, chosen, self.settings.size, rng, self.device)
        said = captions(self.crops, chosen, self.classes, rng)
        target = positives(self.crops, chosen, said).to(self.device)
        tokens = self.tokenizer([caption.text for caption in said]).to(self.device)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        with torch.autocast(self.device.type, self.low or torch.bfloat16, enabled=self.low is not None):
            pixels = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            image = self.model.encode_image(pixels)
            text = self.model.encode_text(tokens)
        loss = soft_contrastive(image.float(), text.float(), self.model.logit_scale.exp(), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return float(loss.detach())


def soft_contrastive(image: Tensor, text: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CLIP's loss with several right answers: each row's and column's targets share the probability equally.

    Args:
        image, text: (N, E) each, not normalised.
        scale: 1/temperature.
        target: bool (N, N), true where caption j is true of image i; its diagonal is.

    Returns:
        mean over images and captions of the cross entropy; plain CLIP where ``target`` is the identity.
    """
    logits = scale * functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T
    right = target.to(logits.dtype)
    rows = -(right / right.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(right / right.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def tiny_facts(out: Path) -> dict[str, Any]:
    """What a report says about a tiny model: its sha and settings."""
    return {"weights_sha": file_sha256(out / WEIGHTS_NAME), "settings": (out / "config.yaml").read_text("utf-8")}


__all__ = [
    "WEIGHTS_NAME", "TinyResult", "TinySettings", "as_clip", "build_tiny", "soft_contrastive",
    "tiny_config", "tiny_facts", "train_tiny", "write_tiny",
]  # fmt: skip
