"""The section ``fit`` of a run file: how long, how much at a time, how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fieldforge.checks import did_you_mean, expect_choice, expect_float, expect_int
from fieldforge.fields.file import STORAGE
from fieldforge.registry import ConfigError


@dataclass(frozen=True)
class FitOptions:
    """Everything about a fit that is not a part of its own.

    Args:
        n_steps: training steps.
        batch_size: samples a step.
        storage: how parameters are stored in the file, one of `STORAGE`; quality is measured after this rounding.
        jitter: share of each batch that is drawn between the pixels, with interpolated colours. It steadies the field
            where no pixel ever looks, for renderings larger than the source, and costs some PSNR at the pixels.
    """

    n_steps: int = 1000
    batch_size: int = 8192
    storage: str = "float16"
    jitter: float = 0.0

    def __post_init__(self) -> None:
        expect_int("n_steps", self.n_steps, 1, 10**9)
        expect_int("batch_size", self.batch_size, 1, 2**24)
        expect_choice("storage", self.storage, STORAGE)
        expect_float("jitter", self.jitter, 0.0, 1.0)

    @staticmethod
    def of(section: Mapping[str, Any]) -> FitOptions:
        """From the table of a run file.

        Raises:
            ConfigError: unknown key or bad value, with its path.
        """
        known = [one.name for one in fields(FitOptions)]
        for key in section:
            if key not in known:
                raise ConfigError(f"fit.{key}: no such key{did_you_mean(str(key), known)}; known: {', '.join(known)}")
        try:
            return FitOptions(**section)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"fit.{error}") from error

    def config(self) -> dict[str, Any]:
        """The table that makes the same options."""
        return asdict(self)
