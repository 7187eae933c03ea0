"""A frozen open_clip model: images and texts to embeddings."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nightaug.clip.weights import (
    CONFIG_NAME,
    Source,
    find_weights,
    open_clip_module,
    without_hub_retries,
    without_network,
)
from nightaug.errors import CheckpointError, ConfigError
from nightaug.pickles import load_torch, trusted
from nightaug.runs import file_sha256, load_weights, resolve_precision

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Clip:
    """A frozen CLIP on one device.

    Attributes:
        name: what results and caches call it.
        sha: hex SHA-256 of weights, architecture and preprocessing together: equal only where embeddings are equal
            (up to the precision they are computed in).
        weights_sha: hex SHA-256 of the weight file alone.
        width: E, of image and text embeddings.
        size: height and width of the images it takes, pixels.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        config: dict[str, Any],
        weights_sha: str,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name, self.weights_sha = name, weights_sha
        self.precision = precision
        self.device = torch.device(device)
        self.width = int(config["model_cfg"]["embed_dim"])
        self.sha = hashlib.sha256((weights_sha + json.dumps(config, sort_keys=True, default=list)).encode()).hexdigest()
        self._type = _TYPES[precision]
        visual: Any = model.visual
        size = visual.image_size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._mean = torch.tensor(visual.image_mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(visual.image_std, device=self.device).view(1, 3, 1, 1)

    @property
    def scale(self) -> float:
        """The learned factor of cosines before the softmax, 1/temperature."""
        return float(self.model.logit_scale.detach().exp())  # type: ignore[operator,union-attr]

    @torch.inference_mode()
    def embed_images(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Embed a batch of images.

        Args:
            images: (N, 3, H, W) RGB, uint8, or float in [0, 1]; resized where H, W is not :attr:`size`.
            normalize: to unit length; raw embeddings are what crops of two sizes are added in.

        Returns:
            float32 (N, E) on the CLIP's device.
        """
        assert images.ndim == 4, f"expected images (N, 3, H, W), got {tuple(images.shape)}"
        assert images.shape[1] == 3, f"expected images (N, 3, H, W), got {tuple(images.shape)}"
        if not len(images):
            return torch.zeros(0, self.width, device=self.device)
        x = images.to(self.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if x.shape[2:] != self.size:
            x = functional.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        x = ((x - self._mean) / self._std).to(self._type)
        out: Tensor = self.model.encode_image(x).float()  # type: ignore[operator]
        return functional.normalize(out, dim=1) if normalize else out

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Embed texts to unit length, float32 (N, E) on the CLIP's device."""
        parts = [torch.zeros(0, self.width, device=self.device)]
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(list(texts[start : start + batch])).to(self.device)
            out: Tensor = self.model.encode_text(tokens).float()  # type: ignore[operator]
            parts.append(functional.normalize(out, dim=1))
        return torch.cat(parts)


def load_clip(spec: str, device: str | torch.device = "cpu", precision: str = "auto", optional: bool = False) -> Clip:
    """Load a CLIP, frozen and in evaluation mode.

    Args:
        spec: ``MODEL:TAG`` (fetched by open_clip unless it is in the machine's cache), ``MODEL:FILE``,
            ``local-dir:FOLDER``, or a tiny model's folder or file.
        precision: ``auto`` (bf16 or fp16 on a GPU; on a CPU bf16 where that is fast), ``fp32``, ``fp16`` or ``bf16``.
        optional: whoever asks does without CLIP, too (``--clip none``); the messages then say so.

    Raises:
        ConfigError: open_clip is missing, or the model or tag is unknown.
        CheckpointError: weights are missing, damaged, of another model, or hold more than tensors.
    """
    if precision not in ("auto", *_TYPES):
        raise ConfigError(f"expected precision auto, fp32, fp16 or bf16, got '{precision}'")
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no GPU is available to this process; use the device cpu")
    precision = resolve_precision(precision, device.type == "cpu")
    source = find_weights(spec, optional)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, config = _build(source, Path(folder), precision, optional)
    return Clip(model.to(device), tokenizer, source.name, config, file_sha256(source.weights), device, precision)


def _build(source: Source, folder: Path, precision: str, optional: bool) -> tuple[nn.Module, Any, dict[str, Any]]:
    open_clip = open_clip_module()
    preprocess = dict(source.preprocess)
    quick_gelu = bool(preprocess.pop("quick_gelu", False))
    if source.model is not None:
        name = source.model
        config: dict[str, Any] = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
        if quick_gelu:
            config["model_cfg"]["quick_gelu"] = True
    else:
        assert source.config is not None
        config = source.config
        if source.folder is None:  # a single file that describes itself; open_clip builds from folders
            (folder / CONFIG_NAME).write_text(json.dumps(config), "utf-8")
        name = f"local-dir:{source.folder or folder}"
    text = config["model_cfg"]["text_cfg"]
    from_hub = bool(text.get("hf_model_name") or text.get("hf_tokenizer_name") or "siglip" in name.lower())
    where = source.weights
    try:
        with without_hub_retries(from_hub), quiet_root_logger():
            model: nn.Module = open_clip.create_model(
                name, precision=precision, load_weights=False, pretrained_text=False,
                force_quick_gelu=quick_gelu, force_preprocess_cfg=preprocess or None,
            )  # fmt: skip
            tokenizer = open_clip.get_tokenizer(name)
    except ImportError as error:
        raise ConfigError(f"{source.name} needs a package that is missing here ({error}); pip install it") from error
    except OSError as error:
        raise CheckpointError(f"{source.name}: its tokenizer cannot be fetched: {without_network(optional)}") from error
    except (RuntimeError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{where}: its description does not make a model ({_line(error)})") from error
    # Refuses what is not plain tensors and was not said to be trusted, in our words, before open_clip looks at it.
    (load_torch if where.suffix == ".bin" else load_weights)(where)
    try:
        with quiet_root_logger():
            open_clip.load_checkpoint(model, str(where), strict=True, weights_only=not trusted())
    except (RuntimeError, AttributeError, KeyError, ValueError, AssertionError) as error:  # open_clip asserts, too
        raise CheckpointError(f"{where} does not fit {source.model or source.name}: {_line(error)}") from error
    bad = next((key for key, value in model.state_dict().items() if not bool(value.float().isfinite().all())), None)
    if bad is not None:
        raise CheckpointError(f"{where} holds NaN or infinite weights ({bad})")
    return model, tokenizer, config


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """open_clip logs to the root logger, and thereby installs a handler there; the program keeps its own."""
    root = logging.getLogger()
    silent = logging.NullHandler()
    root.addHandler(silent)  # with one in place none is installed
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(silent)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _line(error: BaseException) -> str:
    """The error in one line, of readable length: torch lists every key."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:200] + "..."
