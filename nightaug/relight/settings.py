"""Every constant of the night renderer, with its unit and range.

A ``Range`` is (low, high): each image (or each lamp) draws one value from it. Chosen by comparing renders
of day frames with real night frames, never with the sample world (:mod:`nightaug.data.scenes`), with which
this package shares no code and no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nightaug.config import unknown_key
from nightaug.errors import ConfigError

Range = tuple[float, float]
RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class RelightSettings:
    """Constants of :func:`nightaug.relight.relight`.

    Lengths called "reference pixels" are pixels of a frame whose longer side is 1280; they scale with the
    image. "Linear" is linear light with 1 at the sensor's white. Every field is checked when built.

    Raises:
        ValueError: a value is not finite or is negative, or a range has its ends the wrong way round.
    """

    # -- working size ---------------------------------------------------------------------------------
    work_side: int = 320  #: pixels, >= 8: longer side of the small maps (light, sky, glow)

    # -- exposure and tone ----------------------------------------------------------------------------
    median_luma: Range = (7.0, 40.0)  #: grey levels in (0, 255]: median of the ground, drawn in log
    highlight_luma: float = (
        120.0  #: grey level in (0, 255] that 97% of the ground stays under, or the frame is darkened
    )
    haze_removed: float = 0.85  #: share in [0, 1] of the day's lifted black that is taken away
    contrast: Range = (1.1, 1.35)  #: exponent of linear light, >= 1: night footage is steeper than day's
    shadow_flattening: Range = (0.2, 0.4)  #: exponent in [0, 1]: how far sun and shade are evened out
    even_contrast: float = 0.75  #: natural log: broad light that varies more than this is evened out further
    shadow_scale: float = 0.05  #: share of the longer side: how large a patch of shade is
    desaturation: Range = (0.05, 0.35)  #: exponent in [0, 1]: how far broad colours move to the lamps' colour
    softness: Range = (0.5, 2.0)  #: reference pixels: blur of long exposure and in-camera noise reduction

    # -- light: street lamps (ambient) and the own headlights (pool) ------------------------------------
    ambient_colors: tuple[RGB, ...] = (  #: linear RGB: sodium, warm LED, neutral LED, mercury, mixed city
        (1.75, 0.92, 0.34),
        (1.48, 0.96, 0.56),
        (1.20, 0.99, 0.80),
        (0.92, 1.04, 0.98),
        (1.38, 0.94, 0.74),
    )
    ambient_patches: Range = (0.35, 0.85)  #: sigma of log light over the frame (0 is even light)
    ambient_top: Range = (0.25, 0.6)  #: share in [0, 1] of the ambient light that reaches the frame's top
    headlight_color: RGB = (1.18, 1.0, 0.76)  #: linear RGB of the own headlights
    headlight_pool: Range = (0.8, 4.0)  #: peak on the road, times the ambient; (0, 0) for fixed cameras
    horizon: Range = (0.46, 0.54)  #: share of the frame's height
    bonnet: Range = (0.35, 0.7)  #: light in [0, 1] on the lowest strip of the frame, where the bonnet is
    vignette: Range = (0.1, 0.35)  #: loss in [0, 1] in the corners

    # -- sky --------------------------------------------------------------------------------------------
    sky_luma: Range = (2.0, 12.0)  #: grey levels of the night sky overhead
    sky_city_glow: Range = (1.0, 2.2)  #: times brighter at the horizon than overhead
    sky_colors: tuple[RGB, ...] = ((1.2, 0.96, 0.8), (1.0, 1.0, 1.0), (0.9, 0.98, 1.2))  #: linear RGB

    stray_light: float = 2.0  #: times what is around: what no label knows, above the horizon, is no lighter; 0: off

    # -- objects: light on them, times the light around ---------------------------------------------------
    vehicle_light: Range = (0.4, 2.0)  #: as many darker than the road as on real nights: a light box would be a tell
    person_light: Range = (0.6, 2.4)  #: pedestrians, riders, bicycles, motorcycles
    sign_light: Range = (1.5, 22.0)  #: over 0: retro-reflective, as far as headlights reach it; drawn in log
    signal_light: Range = (0.5, 1.1)  #: the housing of a traffic light

    # -- lamps: brightness in linear light (over 1 clips), drawn for each vehicle ---------------------------
    headlamp: Range = (4.0, 20.0)
    headlamp_colors: tuple[RGB, ...] = ((1.0, 0.86, 0.62), (1.0, 0.95, 0.85), (0.88, 0.95, 1.0))
    tail_lamp: Range = (0.8, 2.4)
    brake_lamp: Range = (2.0, 4.5)
    brake_chance: float = 0.35  #: chance in [0, 1] that a rear view brakes
    tail_color: RGB = (1.0, 0.05, 0.035)
    reflector: Range = (0.12, 0.5)  #: tail lamps of a parked car, which only reflect
    lamp_inset: Range = (0.05, 0.22)  #: from one end of a vehicle to its nearer lamp, share of its width
    lamps_apart: Range = (0.3, 0.78)  #: from one lamp to the other, share of its width; the rest shows its side
    signal_lamp: Range = (2.5, 7.0)
    signal_red: RGB = (1.0, 0.08, 0.04)
    signal_yellow: RGB = (1.0, 0.40, 0.03)
    signal_green: RGB = (0.06, 1.0, 0.40)
    core_limit: float = 2.5  #: linear: a coloured lamp wider than 6 pixels is no brighter, or it turns white
    lit_inside: float = 0.4  #: chance in [0, 1] that the windows of a bus or train with its lamps on are lit
    bus_window: Range = (0.04, 0.6)
    bus_window_colors: tuple[RGB, ...] = ((1.0, 0.9, 0.7), (1.0, 0.97, 0.88), (0.86, 1.0, 0.97))
    route_sign_lit: float = 0.35  #: chance in [0, 1] that such a bus, seen from either end, shows its route
    route_sign: Range = (0.3, 1.5)
    route_sign_colors: tuple[RGB, ...] = ((1.0, 0.45, 0.06), (1.0, 0.6, 0.12), (0.9, 1.0, 0.85))
    marked_bus: float = 0.5  #: chance in [0, 1] of marker lamps under the roof of a bus or train
    marked_truck: float = 0.2
    marker_lamp: Range = (0.4, 2.0)
    marker_front: RGB = (1.0, 0.5, 0.06)  #: from behind they are as tail lamps
    lit_on_road: float = 0.9  #: chance in [0, 1] that a vehicle in the middle of the frame has its lamps on
    lit_at_side: float = 0.5  #: the same near the left and right edge, where vehicles are parked
    left_hand_traffic: bool = False  #: oncoming vehicles come on the right
    min_lamp_box: float = 4.0  #: pixels: no lamp in a box with a side shorter than this

    # -- lights outside labelled boxes: off where the numbers are 0 -------------------------------------------
    street_lamps: Range = (0.0, 0.0)  #: how many on each side of the road
    far_lights: Range = (0.0, 0.0)  #: points of light around the horizon
    lit_windows: Range = (0.0, 0.0)  #: above the horizon, not in the sky
    street_lamp: Range = (2.0, 16.0)  #: brightness in linear light
    far_light: Range = (0.4, 4.0)
    lit_window: Range = (0.08, 0.8)
    street_lamp_colors: tuple[RGB, ...] = (  #: linear RGB: sodium, warm LED, neutral LED, mercury
        (1.0, 0.55, 0.2),
        (1.0, 0.75, 0.45),
        (1.0, 0.92, 0.78),
        (0.85, 1.0, 0.97),
    )

    # -- light of the finished frame (finish.py); each is off where it is 0 --------------------------------------
    shading_removed: Range = (0.0, 0.0)  #: share in [0, 1] of broad light and shade that is evened out
    shading_size: Range = (16.0, 70.0)  #: reference pixels, over 0: how broad, drawn in log
    detail: Range = (0.0, 0.0)  #: how much steeper light and dark are close to each other
    detail_size: Range = (5.0, 14.0)  #: reference pixels, over 0: how close, drawn in log
    dapple: Range = (0.0, 0.0)  #: sigma of log light in patches of three sizes
    dapple_size: Range = (24.0, 300.0)  #: reference pixels, over 0: how far those patches lie apart, drawn in log
    roof_fade: Range = (0.0, 0.0)  #: natural log of light a vehicle's roof has less than its lower half
    side_fade: Range = (0.0, 0.0)  #: the same of its two ends

    # -- lens and air ---------------------------------------------------------------------------------------
    glow_sigmas: tuple[float, float, float] = (5.0, 16.0, 60.0)  #: reference pixels
    glow_weights: tuple[float, float, float] = (0.5, 0.22, 0.07)  #: share of a lamp's light, times `glow`
    glow: Range = (0.6, 2.0)
    spill: Range = (0.3, 1.1)  #: how strongly lamps light the surfaces around them
    wet_chance: float = 0.2  #: chance in [0, 1] of a wet road
    wet: Range = (0.05, 0.25)  #: share of the glow mirrored below its lamp on a wet road
    wet_length: float = 90.0  #: reference pixels

    # -- sensor ---------------------------------------------------------------------------------------------
    black_level: Range = (0.0004, 0.0013)  #: linear: lifted black of night footage
    read_noise: Range = (5e-05, 0.0003)  #: linear, standard deviation in the dark
    shot_noise: Range = (3e-06, 3e-05)  #: linear variance for each unit of light
    chroma_noise: Range = (0.3, 0.8)  #: coarse colour noise, times the luma noise

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _KINDS[str(field.type)](value):
                raise ValueError(f"expected {field.name} as {_CALLED.get(str(field.type), field.type)}, got {value!r}")
            flat = _flatten(value)
            if not all(math.isfinite(v) and v >= 0 for v in flat):
                raise ValueError(f"expected {field.name} finite and not negative, got {value}")
            if field.type == "Range" and flat[0] > flat[1]:
                raise ValueError(f"expected {field.name} as (low, high), got {value}")
            if max(flat) > _MOST.get(field.name, math.inf):
                raise ValueError(f"expected {field.name} of at most {_MOST[field.name]:g}, got {value}")
        if self.work_side < 8:
            raise ValueError(f"expected work_side of at least 8 pixels, got {self.work_side}")
        if min(getattr(self, name)[0] for name in _OVER_ZERO) <= 0:
            raise ValueError(f"expected {', '.join(_OVER_ZERO[:-1])} and {_OVER_ZERO[-1]} over 0")

    @property
    def finishes(self) -> bool:
        """Whether the light of the finished frame changes."""
        return any(getattr(self, name)[1] for name in _FINISHING)


#: What is drawn in log, or divided by.
_OVER_ZERO = ("median_luma", "sign_light", "shot_noise", "shading_size", "detail_size", "dapple_size")
_FINISHING = ("shading_removed", "detail", "dapple", "roof_fade", "side_fade")

#: Largest value of what is a share, a chance or a grey level.
_MOST: dict[str, float] = {
    **dict.fromkeys(("haze_removed", "shadow_flattening", "desaturation", "ambient_top", "horizon", "bonnet"), 1.0),
    **dict.fromkeys(
        (
            "vignette",
            "brake_chance",
            "lit_inside",
            "route_sign_lit",
            "marked_bus",
            "marked_truck",
            "lit_on_road",
            "lit_at_side",
            "wet_chance",
            "wet",
            "shading_removed",
        ),
        1.0,
    ),
    **dict.fromkeys(("median_luma", "highlight_luma", "sky_luma"), 255.0),
}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: object, count: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == count and all(_number(item) for item in value)


#: Whether a value is of a field's type.
_KINDS: dict[str, Callable[[object], bool]] = {
    "int": lambda value: _number(value) and isinstance(value, int),
    "float": _number,
    "bool": lambda value: isinstance(value, bool),
    "Range": lambda value: _numbers(value, 2),
    "RGB": lambda value: _numbers(value, 3),
    "tuple[float, float, float]": lambda value: _numbers(value, 3),
    "tuple[RGB, ...]": lambda value: (
        isinstance(value, tuple | list) and len(value) > 0 and all(_numbers(item, 3) for item in value)
    ),
}
#: What users know those types by.
_CALLED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "Range": "(low, high)",
    "RGB": "(red, green, blue)",
    "tuple[float, float, float]": "three numbers",
    "tuple[RGB, ...]": "at least one (red, green, blue)",
}


def _flatten(value: object) -> list[float]:
    if isinstance(value, tuple | list):
        return [v for item in value for v in _flatten(item)]
    assert isinstance(value, int | float)
    return [float(value)]


def relight_settings(values: Mapping[str, Any]) -> RelightSettings:
    """The constants with some replaced, as users write them: ``street_lamps: [0, 6]``, or one number for both ends.

    Raises:
        ConfigError: unknown names or values that cannot be, all of them in one line.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"expected constants of relight by their names, got {values!r}")
    known = {field.name: field for field in fields(RelightSettings)}
    wrong: list[str] = []
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            wrong.append(unknown_key(str(name), known))  # YAML reads 1 and no as other things
            continue
        given[name] = (value, value) if known[name].type == "Range" and _number(value) else _tuples(value)
        try:
            RelightSettings(**{name: given[name]})
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))
    return RelightSettings(**given)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
