"""CLIP's part in a detector's training: embeddings of labelled crops beforehand, and the gate of translated objects.

Everything CLIP does is done before the first step and kept on disk; no step ever runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import msgspec
import torch

from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.gating import gate
from nightaug.clip.region_cache import RegionCache
from nightaug.data.frames import Frame
from nightaug.detect.sampling import Source
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError
from nightaug.runs import user_cache


def cache_folder(settings: DetectorSettings) -> Path:
    """Where embeddings are kept: as set, else in the user's cache folder, shared by all runs."""
    if settings.adaptation.cache is not None:
        return Path(settings.adaptation.cache)
    return user_cache("regions")


def needs_clip(settings: DetectorSettings, sources: Sequence[Source]) -> bool:
    """Whether a run with these settings looks at CLIP's embeddings."""
    aligned = settings.adapt != "none" and "alignment" in settings.adaptation.parts
    return settings.clip != "none" and (aligned or _gates(settings, sources))


def _gates(settings: DetectorSettings, sources: Sequence[Source]) -> bool:
    """Whether the gate is on and has translated images to judge."""
    return settings.clip_gate != "none" and any(source.origins for source in sources)


def without_effect(settings: DetectorSettings, sources: Sequence[Source]) -> list[str]:
    """What the settings say of CLIP and nothing comes of, in words."""
    found = []
    if settings.clip_gate != "none" and not _gates(settings, sources):
        found.append(
            "clip_gate has nothing to judge: no training image is known as translated from one of this dataset"
        )
    if settings.clip != "none" and not needs_clip(settings, sources):
        found.append("--clip is not looked at: it serves --adapt vlmcshfg with its part alignment, and clip_gate")
    return found


class VisionLanguage:
    """A CLIP, its cache of region embeddings, and what is made of them.

    Args:
        settings: of the run; see :func:`needs_clip`.
        device: CLIP runs there until everything is embedded.

    Attributes:
        width: E, of the embeddings.
        name, sha: of the CLIP, see :class:`~nightaug.clip.encoder.Clip`.

    Raises:
        ConfigError, CheckpointError: as :func:`~nightaug.clip.encoder.load_clip`.
    """

    def __init__(self, settings: DetectorSettings, device: torch.device) -> None:
        self.settings = settings
        self._clip: Clip | None = load_clip(settings.clip, device, optional=True)
        self.width, self.name, self.sha = self._clip.width, self._clip.name, self._clip.sha

    @cached_property
    def cache(self) -> RegionCache:
        """See :class:`~nightaug.clip.region_cache.RegionCache`; loader workers may read it.

        Begun on disk when it is first asked for: a dry run leaves nothing behind.
        """
        assert self._clip is not None, "the cache is opened before CLIP is let go"
        adaptation, folder = self.settings.adaptation, cache_folder(self.settings)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"no embeddings can be kept in {folder} ({error.strerror}): choose a place with --set adaptation.cache"
            ) from error
        return RegionCache.open(folder, self._clip, adaptation.context, adaptation.min_side)

    def embed(self, sources: Sequence[Source], classes: Sequence[str]) -> tuple[list[Source], list[str]]:
        """Embed what is missing, and judge translated objects where the settings say so; CLIP is let go afterwards.

        Args:
            sources: what is trained on.
            classes: of the detector.

        Returns:
            The sources, with other box weights where the gate is on, and lines for people.

        Raises:
            Interrupted: Ctrl-C; what was embedded is kept.
            NightaugError: the disk or the GPU's memory is too small.
        """
        clip = self._clip
        if clip is None:
            return list(sources), []
        mode = self.settings.clip_gate
        frames = [frame for source in sources for frame in source.frames]
        before = [_untranslated(source) if mode != "none" else {} for source in sources]
        # A day image is often trained on and the origin of a translated one.
        once = {
            (frame.path, tuple(box.xyxy for box in frame.boxes)): frame
            for frame in chain(frames, *(found.values() for found in before))
        }
        report = self.cache.fill(list(once.values()), clip)
        notes = [f"CLIP {self.name}: {report.boxes:,} boxes in {report.images:,} images, in {self.cache.path}"]
        if report.unreadable:
            notes.append(f"CLIP: {len(report.unreadable):,} images could not be read; their boxes have no embedding")
        out = []
        for source, origins in zip(sources, before, strict=True):
            if mode != "none" and source.origins:
                judged = gate(source.frames, origins, self.cache, clip, classes, mode)
                notes.append(f"{source.name}: {judged.line()}")
                out.append(source._replace(frames=judged.frames))
            else:
                out.append(source)
        self._clip = None
        return out, notes


def _untranslated(source: Source) -> dict[Path, Frame]:
    """By translated image: the same labels on the image it was made from."""
    origins = source.origins or {}
    return {
        frame.path: msgspec.structs.replace(frame, path=origins[frame.path])
        for frame in source.frames
        if frame.path is not None and frame.path in origins
    }
