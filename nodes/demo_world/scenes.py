"""Scenes of the demo world, drawn by code.

A scene has five factors: an object, its colour, a background, a style and whether the object is striped (the
attribute).  `draw` turns a scene into pixels.  Backgrounds vary from row to row only, never along a row, and an
object never touches the left or right edge; the judge (`.judge`) relies on both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

SIZE = 64  # pixels, both sides of a scene
SUPERSAMPLING = 4  # drawn at SIZE * SUPERSAMPLING, then averaged down
STRIPE_PERIOD = 8.0  # pixels, dark and light together
STRIPE_SHADE = 0.28  # a dark stripe is the object's colour times this
OUTLINE_WIDTH = 2.25  # pixels, style "ink"
WASH = 0.55  # share of the pigment that style "watercolour" leaves on white paper

OBJECTS = ("fish", "house", "tree", "car", "boat", "cup", "umbrella", "tent")
COLOURS = {  # name -> RGB, 0..255
    "red": (214, 32, 40),
    "orange": (246, 130, 16),
    "yellow": (250, 214, 20),
    "green": (24, 150, 62),
    "blue": (30, 84, 214),
    "purple": (142, 46, 186),
}
BACKGROUNDS = {  # name -> (top, above the horizon, below the horizon, bottom), RGB, 0..255
    "meadow": ((156, 206, 246), (206, 232, 250), (176, 216, 142), (150, 198, 116)),
    "desert": ((250, 232, 196), (252, 240, 216), (230, 196, 150), (214, 176, 126)),
    "night": ((44, 50, 104), (70, 78, 140), (86, 88, 112), (68, 70, 94)),
    "snow": ((184, 194, 208), (206, 214, 224), (246, 249, 252), (236, 242, 248)),
}
STYLES = ("flat", "ink", "watercolour")
HORIZON = 0.62  # of the height
INK = (14, 12, 18)
_DARK, _PALE, _WOOD = (52, 50, 58), (238, 240, 244), (122, 84, 52)


@dataclass(frozen=True)
class Scene:
    """The factors of a scene and the pose of its object.

    x, y: offset of the object's centre from the middle, pixels, -3..3.  half: half of its size, pixels, 18..22.
    """

    object: str
    colour: str
    background: str
    style: str
    striped: bool
    x: float = 0.0
    y: float = 0.0
    half: float = 20.0

    @property
    def factors(self) -> tuple[str, str, str, str, bool]:
        return self.object, self.colour, self.background, self.style, self.striped


def _circle(cx: float, cy: float, r: float, ry: float | None = None) -> tuple:
    return ("ellipse", (cx - r, cy - (ry or r), cx + r, cy + (ry or r)))


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple:
    return ("polygon", ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


# name -> (parts that take the object's colour, details (shape, RGB) on top), in a square from -1 to 1, y downwards.
_SHAPES: dict[str, tuple[list, list]] = {
    "fish": (
        [_circle(-0.22, 0.0, 0.76, 0.5), ("polygon", ((0.32, 0.0), (1.0, -0.55), (0.86, 0.0), (1.0, 0.55))),
         ("polygon", ((-0.45, -0.4), (0.1, -0.8), (0.2, -0.35)))],
        [(_circle(-0.66, -0.1, 0.13), _PALE), (_circle(-0.68, -0.1, 0.065), _DARK)],
    ),
    "house": (
        [_box(-0.72, -0.12, 0.72, 0.92), ("polygon", ((-0.98, -0.1), (0.0, -0.95), (0.98, -0.1)))],
        [(_box(-0.14, 0.42, 0.2, 0.92), _DARK)],
    ),
    "tree": (
        [_circle(0.0, -0.5, 0.5), _circle(-0.42, -0.12, 0.45), _circle(0.42, -0.12, 0.45)],
        [(_box(-0.14, 0.3, 0.14, 1.0), _WOOD)],
    ),
    "car": (
        [("polygon", ((-1.0, 0.0), (-0.96, 0.5), (0.96, 0.5), (1.0, 0.06), (0.62, -0.04))),
         ("polygon", ((-0.66, 0.02), (-0.42, -0.5), (0.3, -0.5), (0.62, 0.02)))],
        [(_circle(-0.52, 0.5, 0.24), _DARK), (_circle(0.52, 0.5, 0.24), _DARK)],
    ),
    "boat": (
        [("polygon", ((-0.98, 0.36), (0.98, 0.36), (0.62, 0.86), (-0.62, 0.86))),
         ("polygon", ((0.0, -0.98), (0.0, 0.2), (0.78, 0.2))),
         ("polygon", ((-0.12, -0.6), (-0.12, 0.2), (-0.62, 0.2)))],
        [(_box(-0.09, -0.98, 0.0, 0.4), _WOOD)],
    ),
    "cup": (
        [("polygon", ((-0.82, -0.66), (0.5, -0.66), (0.4, 0.78), (-0.72, 0.78))),
         ("ring", (0.2, -0.42, 0.98, 0.42), 0.2)],
        [],
    ),
    "umbrella": (
        [("pie", (-0.98, -0.9, 0.98, 1.0), 180, 360)],
        [(_box(-0.06, 0.05, 0.06, 0.86), _DARK), (("arc", (-0.4, 0.62, 0.06, 1.0), 0, 180, 0.12), _DARK)],
    ),
    "tent": (
        [("polygon", ((0.0, -0.8), (0.98, 0.78), (-0.98, 0.78)))],
        [(("polygon", ((0.0, 0.1), (0.26, 0.78), (-0.26, 0.78))), _DARK)],
    ),
}


def _stamp(canvas: ImageDraw.ImageDraw, shape: tuple, cx: float, cy: float, half: float, fill: int) -> None:
    """Draws one shape of `_SHAPES`, scaled by `half` around (cx, cy)."""
    def place(x: float, y: float) -> tuple[float, float]:
        return cx + half * x, cy + half * y

    kind, geometry = shape[0], shape[1]
    if kind == "polygon":
        canvas.polygon([place(*point) for point in geometry], fill=fill)
        return
    box = [*place(*geometry[:2]), *place(*geometry[2:])]
    if kind == "ellipse":
        canvas.ellipse(box, fill=fill)
    elif kind == "pie":
        canvas.pieslice(box, shape[2], shape[3], fill=fill)
    elif kind == "arc":
        canvas.arc(box, shape[2], shape[3], fill=fill, width=round(shape[4] * half))
    elif kind == "ring":
        canvas.ellipse(box, outline=fill, width=round(shape[2] * half))


def _mask(shapes: list, scene: Scene) -> Image.Image:
    side = SIZE * SUPERSAMPLING
    mask = Image.new("L", (side, side))
    canvas = ImageDraw.Draw(mask)
    for shape in shapes:
        _stamp(canvas, shape, (SIZE / 2 + scene.x) * SUPERSAMPLING, (SIZE / 2 + scene.y) * SUPERSAMPLING,
               scene.half * SUPERSAMPLING, 255)
    return mask


def silhouette(scene: Scene) -> np.ndarray:
    """Share of each pixel that the object covers, (SIZE, SIZE), 0..1."""
    body, details = _SHAPES[scene.object]
    mask = _mask(body + [shape for shape, _ in details], scene)
    return np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255


def background_rows(background: str, rows: int = SIZE) -> np.ndarray:
    """Colour of every row of a background, (rows, 3), 0..255."""
    top, above, below, bottom = (np.array(colour, dtype=np.float32) for colour in BACKGROUNDS[background])
    height = (np.arange(rows) + 0.5)[:, None] / rows
    sky = top + (above - top) * height / HORIZON
    ground = below + (bottom - below) * (height - HORIZON) / (1 - HORIZON)
    return np.where(height < HORIZON, sky, ground)


def wash(pixels: np.ndarray) -> np.ndarray:
    """Thins colours as style "watercolour" does, 0..255 in and out."""
    return 255 - WASH * (255 - pixels)


def draw(scene: Scene) -> np.ndarray:
    """Pixels of a scene, (SIZE, SIZE, 3), uint8."""
    side = SIZE * SUPERSAMPLING
    picture = np.repeat(background_rows(scene.background, side)[:, None], side, axis=1)
    body_shapes, details = _SHAPES[scene.object]
    body = _mask(body_shapes, scene)
    pigment = np.broadcast_to(np.array(COLOURS[scene.colour], dtype=np.float32), picture.shape)
    if scene.striped:
        offset = (np.arange(side) + 0.5) / SUPERSAMPLING - SIZE / 2 - scene.x
        dark = (offset / STRIPE_PERIOD) % 1.0 < 0.5
        pigment = np.where(dark[None, :, None], pigment * STRIPE_SHADE, pigment)
    picture = np.where(np.asarray(body)[..., None] > 127, pigment, picture)
    for shape, colour in details:
        detail = np.asarray(_mask([shape], scene))[..., None] > 127
        picture = np.where(detail, np.array(colour, dtype=np.float32), picture)
    if scene.style == "ink":
        whole = np.asarray(_mask(body_shapes + [shape for shape, _ in details], scene)) > 127
        outline = whole & (ndimage.distance_transform_edt(whole) <= OUTLINE_WIDTH * SUPERSAMPLING)
        picture = np.where(outline[..., None], np.array(INK, dtype=np.float32), picture)
    if scene.style == "watercolour":
        picture = wash(picture)
    image = Image.fromarray(picture.round().astype(np.uint8))
    if scene.style == "watercolour":
        image = image.filter(ImageFilter.GaussianBlur(0.6 * SUPERSAMPLING))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
