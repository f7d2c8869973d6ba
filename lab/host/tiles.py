"""Makes the README's picture, the demo template's thumbnail and the pack's icon from a real run's output.

    python quickstart.py --once
    python quickstart.py run lab/host/tiles.py [OUTPUT]

Reads the enlarged pictures that the demo workflow saved (unguarded and guarded, one per seed).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
GAP = 6  # pixels of white between pictures


def row(output: Path, name: str) -> list[np.ndarray]:
    """The pictures of one half of the demo, in the order of the batch."""
    files = sorted(output.glob(f"{name}*.png"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise FileNotFoundError(f"no {name}*.png in {output}; run 'python quickstart.py --once' first")
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def grid(rows: list[list[np.ndarray]]) -> Image.Image:
    side, columns = rows[0][0].shape[0], len(rows[0])
    sheet = np.full((len(rows) * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), 255, dtype=np.uint8)
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            sheet[y * (side + GAP):y * (side + GAP) + side, x * (side + GAP):x * (side + GAP) + side] = picture
    return Image.fromarray(sheet)


def split_diagonally(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The upper left of one picture, the lower right of the other."""
    y, x = np.indices(before.shape[:2])
    return np.where((x + y < before.shape[0])[..., None], before, after)


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "output"
    before, after = row(output, "unguarded"), row(output, "guarded")
    (ROOT / "docs").mkdir(exist_ok=True)
    grid([before[:4], after[:4]]).save(ROOT / "docs" / "demo.png", optimize=True)
    grid([before[:2], after[:2]]).save(ROOT / "workflows" / "demo.jpg", quality=90)
    Image.fromarray(split_diagonally(before[0], after[0])).save(ROOT / "web" / "icon.png", optimize=True)


if __name__ == "__main__":
    main()
