"""The section ``fit`` of a run file: how long, how much at a time, how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from fieldforge.checks import did_you_mean, expect_choice, expect_float, expect_int
from fieldforge.fields.file import STORAGE
from fieldforge.registry import ConfigError

Table = TypeVar("Table")


def read_table(kind: type[Table], section: Mapping[str, Any], path: str) -> Table:
    """A dataclass from the table of a run file.

    Raises:
        ConfigError: not a table, an unknown key or a bad value, with its path.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path}: expected a table, got {section!r}")
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    for key in section:
        if key not in known:
            raise ConfigError(f"{path}.{key}: no such key{did_you_mean(str(key), known)}; known: {', '.join(known)}")
    try:
        return kind(**section)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}.{error}") from error


@dataclass(frozen=True)
class Options:
    """Everything about a fit of any kind that is not a part of its own.

    Args:
        n_steps: training steps.
        batch_size: samples a step.
        storage: how parameters are stored in the file, one of `STORAGE`; quality is measured after this rounding.
    """

    n_steps: int = 1000
    batch_size: int = 8192
    storage: str = "float16"

    def __post_init__(self) -> None:
        expect_int("n_steps", self.n_steps, 1, 10**9)
        expect_int("batch_size", self.batch_size, 1, 2**24)
        expect_choice("storage", self.storage, STORAGE)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Self:
        """From the table of a run file.

        Raises:
            ConfigError: unknown key or bad value, with its path.
        """
        return read_table(cls, section, "fit")

    def config(self) -> dict[str, Any]:
        """The table that makes the same options."""
        return asdict(self)


@dataclass(frozen=True)
class FieldOptions(Options):
    """Of the fit of one field.

    Args:
        precision: what its networks multiply while it is trained: "float32", "float16" or "bfloat16", for CUDA devices;
            parameters stay float32, see `fieldforge.apps.fit.half`.
    """

    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_choice("precision", self.precision, ("float32", "float16", "bfloat16"))


@dataclass(frozen=True)
class FitOptions(FieldOptions):
    """Of an image fit.

    Args:
        jitter: share of each batch that is drawn between the pixels, with interpolated colours. It steadies the field
            where no pixel ever looks, for renderings larger than the source, and costs some PSNR at the pixels.
    """

    jitter: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_float("jitter", self.jitter, 0.0, 1.0)


@dataclass(frozen=True)
class ShapeOptions(FieldOptions):
    """Of a shape fit.

    Args:
        recipe: where samples are taken, one of `fieldforge.apps.shapes.samples.RECIPES`; for losses that need no
            distance (SIREN, IGR), one of `SURFACE_RECIPES` there.
        pool_size: samples that are prepared at a time.
        n_passes: how often each pool is gone through before the next.
        sphere: radius, in sides of the cube, of the sphere whose distance the untrained field is; 0: not a sphere but
            what the network's own initialisation gives. Of signed distances.
    """

    recipe: str = "layers"
    pool_size: int = 2**18
    n_passes: int = 4
    sphere: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        from fieldforge.apps.shapes.samples import RECIPES, SURFACE_RECIPES

        expect_choice("recipe", self.recipe, [*RECIPES, *(SURFACE_RECIPES.keys() - RECIPES.keys())])
        expect_float("sphere", self.sphere, 0.0, 1.0)
        expect_int("pool_size", self.pool_size, self.batch_size, 2**26)
        expect_int("n_passes", self.n_passes, 1, 10**6)
