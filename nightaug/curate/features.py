"""Features of whole images for distances between sets: by CLIP, by torchvision's Inception, or by the judge itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nightaug.clip.encoder import Clip
from nightaug.curate.judge import Look
from nightaug.cyclegan.translation_metrics import (
    clip_distance,
    frechet_distance,
    kernel_distance,
    structure_distance,
)
from nightaug.detect.detectors.pretrained import download_timeout
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import ImageArray
from nightaug.runs import file_sha256, load_weights

#: What --features may be.
KINDS = ("clip", "inception", "judge", "none")
#: Features that differ by no more than this share of the largest are the same but for rounding.
_SAME = 1e-5
#: Seed of KID's subsets.
_SEED = 0
#: Input of the Inception network, pixels; its weights came from TensorFlow and take values in [-1, 1].
_INCEPTION = 299
_SCALED = "[-1, 1]"


class Extractor(Protocol):
    """A frozen network: images to a vector each, and a map of features where it has one.

    ``name`` is what results call it, ``sha`` changes whenever its features do.
    """

    name: str
    sha: str

    def __call__(self, images: Sequence[ImageArray]) -> list[Look]: ...


def _small(image: ImageArray, size: tuple[int, int]) -> Tensor:
    """(3, *size) in [0, 1], stretched to that size without aliasing."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    if pixels.shape[2:] == size:
        return pixels[0]
    out = functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    return out[0].clamp(0, 1)


class _Tap:
    """Keeps what a layer gave in the last pass."""

    def __init__(self, layer: nn.Module | None) -> None:
        self.value: Tensor | None = None
        if layer is not None:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, given: Any, out: Any) -> None:
        out = out[-1] if isinstance(out, list | tuple) else out
        self.value = out if isinstance(out, Tensor) else None

    def places(self, count: int) -> Tensor | None:
        """(N, T, C), None where the layer gave no such thing."""
        value, self.value = self.value, None
        if value is None:
            return None
        if value.ndim == 4:
            value = value.flatten(2).transpose(1, 2)
        return value.float().cpu() if value.ndim == 3 and len(value) == count else None


class ClipFeatures:
    """CLIP's embeddings of whole images, stretched to its input as CMMD's authors do."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.name, self.sha = clip, "clip", clip.sha
        visual: Any = clip.model.visual
        self._tap = _Tap(getattr(visual, "transformer", None) or getattr(visual, "layer4", None))

    def __call__(self, images: Sequence[ImageArray]) -> list[Look]:
        if not images:
            return []
        vectors = self.clip.embed_images(torch.stack([_small(image, self.clip.size) for image in images])).cpu()
        places = self._tap.places(len(images))
        return [Look(vector, None if places is None else places[i]) for i, vector in enumerate(vectors)]


class InceptionFeatures:
    """Pooled features of torchvision's Inception v3, trained on ImageNet.

    Not the network of the TensorFlow release that published FIDs are made with: compare these with each other only.

    Args:
        source: a torchvision tag, or a weight file in torchvision's layout.

    Raises:
        CheckpointError: the weights cannot be fetched, or do not fit.
    """

    name = "inception"

    def __init__(self, source: str = "IMAGENET1K_V1", device: str = "cpu") -> None:
        import torchvision

        self.device = torch.device(device)
        network: Any = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=True)
        state, sha = _inception_weights(source)
        # Rows measured with another scaling of the input are of another extractor.
        self.sha = hashlib.sha256(f"{sha} {_SCALED}".encode()).hexdigest()
        own = network.state_dict()
        wrong = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
        wrong = [key for key in wrong if not key.startswith(("fc.", "AuxLogits."))]
        if wrong:
            raise CheckpointError(
                f"{source} does not fit torchvision's inception_v3: {wrong[0]} is missing or of another shape"
            )
        network.load_state_dict({key: state.get(key, value) for key, value in own.items()}, strict=False)
        network.fc = nn.Identity()
        self.network = network.to(self.device).eval().requires_grad_(False)
        self._tap = _Tap(network.Mixed_6e)

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageArray]) -> list[Look]:
        if not images:
            return []
        size = (_INCEPTION, _INCEPTION)
        batch = torch.stack([_small(image, size) * 2 - 1 for image in images]).to(self.device)
        vectors = self.network(batch).float().cpu()
        places = self._tap.places(len(images))
        return [Look(vector, None if places is None else places[i]) for i, vector in enumerate(vectors)]


def _inception_weights(source: str) -> tuple[Mapping[str, Tensor], str]:
    """Tensors and a hash of them."""
    if Path(source).is_file():
        tensors, _ = load_weights(source)
        return tensors, file_sha256(source)
    from torchvision.models import Inception_V3_Weights

    tags = {entry.name: entry for entry in Inception_V3_Weights}
    if source not in tags:
        raise ConfigError(
            f"--features inception:{source} is neither a file nor a torchvision tag (there are: {', '.join(tags)})"
        )
    url = tags[source].url
    try:
        with download_timeout():
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"Inception's weights cannot be downloaded ({error}); fetch {url} elsewhere and put it into {folder}, or "
            "give the file with --features inception:FILE, or use --features clip or judge"
        ) from error
    return state, hashlib.sha256(url.encode()).hexdigest()


def parse_features(given: Sequence[str]) -> list[tuple[str, str]]:
    """``inception:FILE`` to ``("inception", "FILE")``.

    Raises:
        ConfigError: an unknown kind, or ``none`` beside another.
    """
    found = []
    for text in given:
        kind, _, source = text.partition(":")
        if kind not in KINDS or (source and kind != "inception"):
            raise ConfigError(f"--features {text}: expected clip, inception, inception:FILE, judge or none")
        found.append((kind, source))
    if ("none", "") in found and len(found) > 1:
        raise ConfigError("--features none stands alone")
    return [each for each in dict.fromkeys(found) if each[0] != "none"]


def packed(vector: Tensor) -> str:
    """A vector as text: float32, base64."""
    return base64.b64encode(np.ascontiguousarray(vector.numpy(), "<f4").tobytes()).decode()


def unpacked(texts: Sequence[str]) -> Tensor:
    """Texts of :func:`packed` as (N, D)."""
    return torch.from_numpy(np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts]).copy())


class SetDistances(NamedTuple):
    """Between two sets of features; None where a set is too small for it, or all features are the same."""

    fid: float | None
    kid: float | None
    kid_spread: float | None
    cmmd: float | None


def all_same(*sets: Tensor) -> bool:
    """Whether the features (N, D) of all images are the same but for rounding: the network tells none from another."""
    features = torch.cat(sets)
    spread = features.amax(dim=0) - features.amin(dim=0)
    return bool(spread.max() <= _SAME * features.abs().max())


def set_distances(first: Tensor, second: Tensor, clip: bool) -> SetDistances:
    """FID, KID, and with CLIP's features CMMD.

    CMMD is defined for CLIP's embeddings; of other features, whose cosines lie elsewhere, it means nothing.
    """
    if all_same(first, second):  # their distance is 0, and says nothing of the images
        return SetDistances(None, None, None, None)
    smaller = min(len(first), len(second))
    fid = frechet_distance(first, second) if smaller >= 2 else None
    kid = kernel_distance(first, second, seed=_SEED) if smaller >= 4 else None
    cmmd = clip_distance(first, second) if clip and smaller else None
    return SetDistances(fid, kid.mean if kid else None, kid.spread if kid else None, cmmd)


def pair_distance(before: Look, after: Look) -> float | None:
    """Structure distance of an image and its translation; None where the network shows no map."""
    if before.places is None or after.places is None or before.places.shape != after.places.shape:
        return None
    return float(structure_distance(before.places[None], after.places[None])[0])
