"""The judge: reads every factor of a demo scene off its pixels.  Never used in training.

It works in the order a person would: which rows are background (a background is constant along a row, and the object
stays clear of the left and right edge), what stands out from it, whether its rim is inked, what hue its bright part
has, whether its columns alternate with the period of stripes, and what shape it has.  When two shapes fit about
equally well, both scenes are drawn, and the one that looks more like the picture is it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from .scenes import BACKGROUNDS, COLOURS, OBJECTS, SIZE, STRIPE_PERIOD, Scene, background_rows, draw, silhouette, wash

FACTOR_NAMES = ("object", "colour", "background", "style", "striped")
EDGE = 4  # columns at either side that hold background only
FOREGROUND_DISTANCE = 0.13  # largest channel difference to the background, 0..1
MIN_AREA = 90  # pixels; less than this is no object
MIN_OVERLAP = 0.6  # intersection over union with the best silhouette; less is no known object
CLOSE_CALL = 0.1  # difference in overlap below which the picture itself decides between the two best silhouettes
HALVES = (17, 18, 19, 20, 21, 22, 23)  # sizes of the object that are tried, see Scene.half
REACH = 6  # pixels from the middle, both ways, at which the object is looked for
INK_VALUE = 0.3  # brightness below which a pixel counts as dark; dark stripes do, too
INK_SHARE = 0.74  # share of dark pixels all around the object from which on it counts as inked
STRIPE_SHARE = 0.22  # share of the column profile's power at the stripe period from which on it counts as striped
STRIPE_DEPTH = 0.18  # least amplitude of that modulation, relative to the object's brightness
_HUES = {"red": 357.0, "orange": 29.7, "yellow": 50.6, "green": 138.1, "blue": 222.4, "purple": 281.1}  # degrees


@dataclass(frozen=True)
class Verdict:
    """What the judge read.  A factor that cannot be read is None."""

    object: str | None
    colour: str | None
    background: str | None
    style: str | None
    striped: bool

    @property
    def factors(self) -> tuple:
        return self.object, self.colour, self.background, self.style, self.striped

    def matches(self, scene: Scene) -> bool:
        return self.factors == scene.factors


def judge(pixels: np.ndarray) -> Verdict:
    """Verdict on one picture.

    pixels: (SIZE, SIZE, 3), uint8, or float in 0..1.  ValueError for any other shape.
    """
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"picture has shape {tuple(pixels.shape)}; the judge reads ({SIZE}, {SIZE}, 3)")
    picture = pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    rows = np.median(np.concatenate([picture[:, :EDGE], picture[:, -EDGE:]], axis=1), axis=1)  # (SIZE, 3)
    background, washed = _read_background(rows)
    mask = _foreground(picture, rows)
    if mask.sum() < MIN_AREA:
        return Verdict(None, None, background, None, False)
    style = "watercolour" if washed else "ink" if _rim_darkness(picture, mask) >= INK_SHARE else "flat"
    # Undo the wash, so that hue and stripes are read on the same scale in every style.
    scale = wash(np.zeros(1))[0] / 255 if washed else 0.0
    pigment = np.clip((picture - scale) / (1 - scale), 0, 1)
    core = _core(mask)
    share, depth = _stripe_power(pigment, core)
    striped = bool(share >= STRIPE_SHARE and depth >= STRIPE_DEPTH)
    colour = _read_colour(pigment, core)
    name = _read_object(picture, mask, (colour, background, style, striped))
    return Verdict(name, colour, background, style, striped)


def _read_background(rows: np.ndarray) -> tuple[str | None, bool]:
    """Nearest background and whether it is washed (style watercolour); None when no background is near."""
    distances = [(np.abs((wash(background_rows(name)) if washed else background_rows(name)) / 255 - rows).mean(),
                  name, washed) for washed in (False, True) for name in BACKGROUNDS]
    distance, name, washed = min(distances, key=lambda item: item[0])
    return (name if distance < 0.08 else None), washed


def _foreground(picture: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pixels that differ from the background of their row; pieces too small to be part of an object are left out."""
    distance = np.abs(picture - rows[:, None]).max(axis=-1)
    # The wash thins object and background alike, so the distance shrinks with the picture's own contrast.
    threshold = FOREGROUND_DISTANCE * np.clip(np.quantile(distance, 0.97) / 0.6, 0.5, 1.0)
    pieces, count = ndimage.label(distance > threshold)
    sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, np.arange(1, count + 1))
    keep = [index + 1 for index, size in enumerate(sizes) if size >= 12]
    return np.isin(pieces, keep)


@functools.cache
def _silhouettes() -> tuple[np.ndarray, np.ndarray]:
    """Of every object in every size: the conjugate spectrum of its silhouette, and its area in pixels."""
    shapes = np.array([[silhouette(Scene(name, "red", "snow", "flat", False, half=half)) > 0.5 for half in HALVES]
                       for name in OBJECTS], dtype=np.float32)  # (objects, sizes, SIZE, SIZE)
    return np.conj(np.fft.rfft2(shapes)), shapes.sum((2, 3))


def _fits(mask: np.ndarray) -> list[tuple[float, Scene]]:
    """For every object the best overlap (intersection over union) over all poses, and that pose; best object first."""
    spectra, areas = _silhouettes()
    shared = np.fft.irfft2(np.fft.rfft2(mask.astype(np.float32)) * spectra, s=mask.shape)  # at every shift
    shifts = np.arange(-REACH, REACH + 1)
    shared = shared[:, :, shifts[:, None], shifts]  # (objects, sizes, y, x)
    overlaps = shared / (mask.sum() + areas[:, :, None, None] - shared)
    found = []
    for name, each in zip(OBJECTS, overlaps):
        size, y, x = np.unravel_index(each.argmax(), each.shape)
        pose = Scene(name, "red", "snow", "flat", False, float(shifts[x]), float(shifts[y]), float(HALVES[size]))
        found.append((float(each.max()), pose))
    return sorted(found, key=lambda fit: -fit[0])


def _read_object(picture: np.ndarray, mask: np.ndarray, others: tuple) -> str | None:
    """Object whose silhouette fits best.  others: what was read of the other factors."""
    fits = _fits(mask)
    close = [fit for fit in fits[:2] if fit[0] >= max(MIN_OVERLAP, fits[0][0] - CLOSE_CALL)]
    if len(close) > 1 and None not in others:
        close.sort(key=lambda fit: _difference(picture, fit[1], others))
    return close[0][1].object if close else None


def _difference(picture: np.ndarray, pose: Scene, others: tuple) -> float:
    """Mean difference of a picture to the scene of these factors, drawn in this pose, 0..1."""
    colour, background, style, striped = others
    scene = replace(pose, colour=colour, background=background, style=style, striped=striped)
    return float(np.abs(draw(scene) / np.float32(255) - picture).mean())


def _rim_darkness(picture: np.ndarray, mask: np.ndarray) -> float:
    """Share of dark pixels in the darker of the two rings just inside the silhouette's edge."""
    dark = picture.max(axis=-1) < INK_VALUE
    insides = [ndimage.binary_erosion(mask, iterations=depth) for depth in (1, 2, 3)]
    rings = [outer & ~inner for outer, inner in zip(insides, insides[1:])]
    return max(float(dark[ring].mean()) if ring.any() else 0.0 for ring in rings)


def _core(mask: np.ndarray) -> np.ndarray:
    """The object without its rim, or with as much of it as a thin object needs."""
    eroded = (ndimage.binary_erosion(mask, iterations=depth) for depth in (3, 2, 1))
    return next((core for core in eroded if core.sum() >= 40), mask)


def _read_colour(pigment: np.ndarray, core: np.ndarray) -> str | None:
    """Colour nearest in hue to the bright, saturated half of the object's inside."""
    inside = pigment[core]
    value, low = inside.max(axis=-1), inside.min(axis=-1)
    vivid = (value - low) >= max(0.25, 0.6 * np.quantile(value - low, 0.9))
    if vivid.sum() < 8:
        return None
    red, green, blue = inside[vivid].T
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    angle = np.degrees(np.arctan2(np.median(np.sin(hue)), np.median(np.cos(hue)))) % 360
    return min(COLOURS, key=lambda name: abs((angle - _HUES[name] + 180) % 360 - 180))


def _stripe_power(pigment: np.ndarray, core: np.ndarray) -> tuple[float, float]:
    """How much of the brightness along the columns alternates with the stripes' period, and how deeply.

    Columns are compared within the object only: each row's mean is taken off first, so that horizontal edges (a
    roof, a hull) do not count.
    """
    value = pigment.max(axis=-1)
    weights = core.astype(np.float32)
    if weights.sum() < 20:
        return 0.0, 0.0
    row_mean = (value * weights).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), 1)
    centred = (value - row_mean) * weights
    counts = weights.sum(0)
    used = counts >= 3
    profile = np.where(used, centred.sum(0) / np.maximum(counts, 1), 0.0)
    x = np.arange(SIZE)
    amplitude = max(
        np.abs((profile * counts * np.exp(2j * np.pi * x / period)).sum()) * 2 / counts[used].sum()
        for period in STRIPE_PERIOD * np.array([0.92, 0.96, 1.0, 1.04, 1.08])
    ) if used.any() else 0.0
    power = (centred ** 2).sum() / weights.sum()
    brightness = float(np.quantile(value[core], 0.9))
    return float(amplitude ** 2 / 2 / max(power, 1e-6)), float(amplitude / max(brightness, 1e-3))
