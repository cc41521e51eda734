"""Small pictures of fields, straight from their rows."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fieldforge.apps.generate.looks import PictureLooks, SolidLooks, scattered
from fieldforge.apps.images import linear_to_srgb

SIDE = 96
_N_SPLATS = 40_000
_LIGHT = np.array([0.4, -0.5, 0.77])


def thumbnails(looks: PictureLooks | SolidLooks, rows: Tensor) -> list[np.ndarray]:
    """(height, width, 3) sRGB in [0, 1] of each of (n, P) rows; grey with a cross where there is nothing to see."""
    if isinstance(looks, PictureLooks):
        seen = looks.see(rows)
        shape = len(rows), looks.height, looks.width, looks.n_channels
        pictures = seen.outputs.reshape(shape).numpy()
        return [
            _crossed() if bool(is_empty) else _colored(picture, looks.is_srgb)
            for picture, is_empty in zip(pictures, seen.is_empty, strict=True)
        ]
    found = []
    for row in rows:
        surface = looks.surface(looks.levels(row[None])[0])
        found.append(_crossed() if surface is None else _splatted(*scattered(surface, _N_SPLATS)))
    return found


def _colored(picture: np.ndarray, is_srgb: bool) -> np.ndarray:
    n_channels = picture.shape[2]
    color = picture[..., :-1] if n_channels in (2, 4) else picture
    if not is_srgb:
        color = linear_to_srgb(np.clip(color / max(float(np.percentile(color, 99)), 1e-6), 0, 1))
    color = np.repeat(color, 3, 2) if color.shape[2] == 1 else color
    if n_channels in (2, 4):
        color = color * picture[..., -1:] + 0.9 * (1 - picture[..., -1:])
    return np.asarray(color)


def _splatted(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Points of a surface in the unit cube, seen from a corner above, the nearest at each pixel."""
    turn, tilt = np.radians(35.0), np.radians(25.0)
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    toward = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])  # where the eye is
    up = np.cross(toward, right)
    centred = points - 0.5
    scale = SIDE / 1.5
    column = (centred @ right * scale + SIDE / 2).astype(int).clip(0, SIDE - 1)
    row = (SIDE / 2 - centred @ up * scale).astype(int).clip(0, SIDE - 1)
    picture = np.full((SIDE, SIDE, 3), 1.0)
    order = np.argsort(centred @ toward)  # the nearest last, over the others
    shade = 0.25 + 0.7 * np.clip(normals[order] @ _LIGHT, 0, 1)
    picture[row[order], column[order]] = shade[:, None] * np.array([0.80, 0.87, 1.0])
    return picture


def _crossed() -> np.ndarray:
    picture = np.full((SIDE, SIDE, 3), 0.85)
    along = np.arange(SIDE)
    picture[along, along] = picture[along, SIDE - 1 - along] = 0.5
    return picture


def beside(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of pictures of one size, one after another and one under another, with a little room between."""
    height, width, _ = rows[0][0].shape
    gap = max(1, height // 14)
    sheet = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 1.0)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = _fitted(picture, height, width)
    return sheet


def _fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest pixels, where the size is another."""
    if picture.shape[:2] == (height, width):
        return picture
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows][:, columns]
