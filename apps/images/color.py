"""The sRGB transfer curve (IEC 61966-2-1:1999), both ways.

The curve is continued through zero as an odd function and above one by its own formula, so that the two functions
undo each other on all reals.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Values = TypeVar("Values", np.ndarray, Tensor)


def srgb_to_linear(color: Values) -> Values:
    """Linear light of sRGB-coded values.

    Args:
        color: any shape, floating point, nominally in [0, 1]; alpha is not coded and does not belong here.

    Returns:
        The same shape, dtype and kind (NumPy or torch).

    Example:
        >>> srgb_to_linear(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.2140, 1.0000])
    """
    if isinstance(color, Tensor):
        size = color.abs()
        return torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4) * color.sign()
    size = np.abs(color)
    return (np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4) * np.sign(color)).astype(
        color.dtype
    )


def linear_to_srgb(color: Values) -> Values:
    """sRGB code of linear light; the inverse of `srgb_to_linear`.

    Example:
        >>> linear_to_srgb(np.array([0.0, 0.2140411, 1.0])).round(4)
        array([0. , 0.5, 1. ])
    """
    if isinstance(color, Tensor):
        size = color.abs()
        root = size.clamp(min=0.0031308) ** (1 / 2.4)  # the clamp keeps the gradient at zero finite
        return torch.where(size <= 0.0031308, size * 12.92, 1.055 * root - 0.055) * color.sign()
    size = np.abs(color)
    root = np.maximum(size, 0.0031308) ** (1 / 2.4)
    return (np.where(size <= 0.0031308, size * 12.92, 1.055 * root - 0.055) * np.sign(color)).astype(color.dtype)
