"""How far into the night: between a day image and its translation, evenly in stops, as ``relight`` goes."""

from __future__ import annotations

import numpy as np

from nightaug.images import ImageArray


def blend(day: ImageArray, night: ImageArray, strength: float) -> ImageArray:
    """``day ** (1 - strength) * night ** strength`` in linear light, pixel by pixel.

    A plain mean would leave (1 - strength) of the daylight over everything, and no lamp would show against it; halving
    the exposure again and again is what dusk does. One grey level of light is added before and taken off after, since
    black has no logarithm.

    Args:
        day, night: uint8 (H, W, 3) RGB of the same size.
        strength: in [0, 1]; 0 gives ``day``, 1 ``night``.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    if strength >= 1.0:
        return night
    from nightaug.relight.tone import to_linear  # brings OpenCV along, which importing the transforms should not

    light = np.array([to_linear(v) for v in range(256)])
    floor = light[1]
    stops = np.log(light + floor)
    mixed = np.exp((1 - strength) * stops[:, None] + strength * stops[None, :]) - floor  # (256, 256): day, night
    table = np.searchsorted((light[1:] + light[:-1]) / 2, mixed).astype(np.uint8)
    return np.asarray(table[day, night], dtype=np.uint8)
