"""Contact sheets: many small pictures as one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def save_sheet(path: Path, images: Tensor, *, columns: int, gap: int = 2) -> None:
    """images [N, H, W, 3] in [0, 1], row by row."""
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), 3), 255, dtype=np.uint8)
    for i, image in enumerate((images.detach().clamp(0, 1) * 255).round().byte().numpy()):
        y, x = divmod(i, columns)
        sheet[y * (height + gap) : y * (height + gap) + height, x * (width + gap) : x * (width + gap) + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
