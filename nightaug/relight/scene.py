"""What one night is made of: the values an image draws from the settings' ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightaug.relight.settings import Range, RelightSettings

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one image drew from the settings' ranges."""

    median: float
    contrast: float
    flattening: float
    desaturation: float
    softness: float
    ambient: F32
    patches: F32
    ambient_top: float
    pool: float
    pool_x: float
    horizon: float
    bonnet: float
    vignette: float
    sky: float
    sky_glow: float
    sky_color: F32
    glow: float
    spill: float
    wet: float
    black: float
    read: float
    shot: float
    chroma: float

    @staticmethod
    def draw(rng: np.random.Generator, settings: RelightSettings) -> Scene:
        def between(span: Range) -> float:
            return float(rng.uniform(span[0], span[1]))

        s = settings
        ambient = np.array(s.ambient_colors[int(rng.integers(len(s.ambient_colors)))], dtype=np.float32)
        second = np.array(s.ambient_colors[int(rng.integers(len(s.ambient_colors)))], dtype=np.float32)
        sky_color = np.array(s.sky_colors[int(rng.integers(len(s.sky_colors)))], dtype=np.float32)
        # Two kinds of lamp in one street: their mix and their light vary slowly over the frame.
        mix = rng.uniform(0.55, 1, (4, 6, 1)).astype(np.float32)
        field = np.exp(between(s.ambient_patches) * rng.standard_normal((4, 6, 1))).astype(np.float32)
        return Scene(
            median=math.exp(between((math.log(s.median_luma[0]), math.log(s.median_luma[1])))),
            contrast=between(s.contrast),
            flattening=between(s.shadow_flattening),
            desaturation=between(s.desaturation),
            softness=between(s.softness),
            ambient=ambient,
            patches=(field * (mix * ambient + (1 - mix) * second)).astype(np.float32),
            ambient_top=between(s.ambient_top),
            pool=between(s.headlight_pool),
            pool_x=float(rng.uniform(-0.12, 0.12)),
            horizon=between(s.horizon),
            bonnet=between(s.bonnet),
            vignette=between(s.vignette),
            sky=between(s.sky_luma),
            sky_glow=between(s.sky_city_glow),
            sky_color=sky_color / float(sky_color.mean()),
            glow=between(s.glow),
            spill=between(s.spill),
            wet=between(s.wet) if rng.random() < s.wet_chance else 0.0,
            black=between(s.black_level),
            read=between(s.read_noise),
            shot=between(s.shot_noise),
            chroma=between(s.chroma_noise),
        )
