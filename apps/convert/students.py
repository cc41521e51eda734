"""What a field can become: for each kind of signal, the students by the names that people call them.

A student is a preset of the signal's fit, sections of a run file over it, and what is turned down when its file has to
be small. To add one: a line in the table of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldforge.apps.compare.methods import IMAGE, SHAPE, Method
from fieldforge.checks import did_you_mean, with_article


@dataclass(frozen=True)
class Turn:
    """Keys that are turned down together, to one value.

    Args:
        keys: of the run file; those that a configuration lacks are left out.
        least: the smallest value.
        multiple: values are multiples of it.
    """

    keys: tuple[str, ...]
    least: int
    multiple: int = 1


@dataclass(frozen=True)
class Student:
    """One way to hold a signal.

    Args:
        preset: of the signal's fit, the ground.
        sections: of a run file, over it.
        overrides: single keys over both.
        turns: what makes it smaller, in the order in which it is turned down.
        box: of a scene where none is asked for: "teacher", its teacher's, or "content", around what that holds.
        is_large: of a scene: a step of its own costs so much that asking a large teacher is not what takes the time.
    """

    preset: str
    sections: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    box: str = "teacher"
    is_large: bool = False


_WIDTHS = Turn(("network.n_neurons", "rgb_network.n_neurons", "rgb_network.nested.n_neurons"), 8, 8)
_CELLS = Turn(("fit.occupancy",), 16, 16)
_TABLE = Turn(("encoding.log2_hashmap_size",), 6)


def _sides(*keys: str, least: int = 8) -> Turn:
    return Turn(keys or ("encoding.resolution", "rgb_encoding.resolution"), least)


# What a teacher answers is not as noisy as pixels: tables learn at two or three times the rate they have from photos.
SCENE: dict[str, Student] = {
    "hashgrid": Student("balanced", overrides=("optimizer.learning_rate=2e-2",), turns=(_TABLE, _WIDTHS, _CELLS)),
    "mlp": Student(
        "vanilla-occupied",
        # It is told so much at a point that a small batch is enough, and many small steps come further. At 256 points
        # what is not arithmetic begins to cost.
        {"distillation": {"points": 0.7}},
        ("optimizer.learning_rate=2e-3", "optimizer.beta2=0.99", "fit.batch_size=512"),
        turns=(_WIDTHS, _CELLS),
        is_large=True,
    ),
    "tensorf": Student(
        "tensorf",
        overrides=("optimizer.learning_rate=2e-3", "optimizer.non_matrix_learning_rate_factor=20"),
        turns=(_sides(), _WIDTHS, _CELLS),
    ),
    "tensorf-cp": Student("tensorf-cp", turns=(_sides(), _WIDTHS, _CELLS)),
    "kplanes": Student(
        "kplanes", overrides=("optimizer.learning_rate=2e-2",), turns=(_sides(least=4), _WIDTHS, _CELLS)
    ),
    "densegrid": Student(
        "densegrid",
        overrides=("optimizer.non_matrix_learning_rate_factor=150",),
        turns=(_sides("encoding.base_resolution", "rgb_encoding.base_resolution", least=4), _CELLS),
    ),
    "pref": Student("pref", turns=(_sides(), _WIDTHS, _CELLS)),
    "kilonerf": Student(
        "kilonerf",
        # Each network sees its own cell at points alone, as the authors', before it sees pixels. Theirs learn what a
        # sample absorbs (density = "alpha"), for 150 000 steps; in few steps logarithms come further. A large
        # teacher is asked for a tenth of a batch, and with photos not at all after its points.
        {
            "distillation": {
                "features": 0.0,
                "points": 0.3,
                "along_rays": 0.5,
                "remembered": 0.9,
                "points_weight": 0.0,
                "faint": 0.005,
            },
        },
        turns=(Turn(("partition.resolution",), 1), _WIDTHS, _CELLS),
        box="content",  # cells are all it has: none for empty margins
    ),
    "mimlp": Student("mimlp", turns=(_WIDTHS, _CELLS), is_large=True),
}


def _of(method: Method) -> Student:
    """A method of `fieldforge compare` as a student."""
    return Student(method.preset, method.sections, method.overrides, (Turn((method.size,), method.sizes[0]), _WIDTHS))


_NETWORK: dict[str, Any] = {
    "otype": "MLP", "n_neurons": 256, "n_hidden_layers": 4, "activation": "ReLU", "has_bias": True
}  # fmt: skip

IMAGES: dict[str, Student] = {name: _of(method) for name, method in IMAGE.items() if method.tune == "none"}
IMAGES["mlp"] = IMAGES.pop("pe")
_KILO = Student("kilonerf", turns=(Turn(("partition.resolution",), 1), _WIDTHS))
IMAGES["kilonerf"] = _KILO

SHAPES: dict[str, Student] = {name: _of(method) for name, method in SHAPE.items()} | {
    "kilonerf": _KILO,
    "mlp": Student(
        "siren",
        {"encoding": {"otype": "Frequency", "n_frequencies": 6}, "network": _NETWORK},
        ("optimizer.learning_rate=1e-3",),
        (_WIDTHS,),
    ),
    "densegrid": Student(
        "balanced",
        {"encoding": {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 64, "n_features_per_level": 2}},
        turns=(_sides("encoding.base_resolution", least=4), _WIDTHS),
    ),
    "tensorf": Student(
        "balanced",
        {"encoding": {"otype": "TensorVM", "resolution": 128, "n_components": 8}},
        turns=(_sides(), _WIDTHS),
    ),
    "kplanes": Student(
        "balanced",
        {"encoding": {"otype": "KPlanes", "resolution": 32, "n_features": 8, "multiscale": [1, 2, 4]}},
        turns=(_sides(least=4), _WIDTHS),
    ),
    "pref": Student(
        "balanced", {"encoding": {"otype": "PREF", "resolution": 64, "n_features": 4}}, turns=(_sides(), _WIDTHS)
    ),
}

STUDENTS: dict[str, dict[str, Student]] = {"scene": SCENE, "image": IMAGES, "shape": SHAPES}
"""Kind of signal -> name -> student."""


def student(kind: str, name: str, *, teacher: str = "the field") -> Student:
    """A student by name.

    Raises:
        ValueError: a name of another kind of signal, or of none; says what the kind has.
    """
    table = STUDENTS[kind]
    if name in table:
        return table[name]
    known = ", ".join(table)
    others = [other for other, names in STUDENTS.items() if name in names]
    if others:
        raise ValueError(
            f"to: {name} is made of {with_article(others[0])}, and {teacher} holds {with_article(kind)}, which becomes "
            f"one of {known}"
        )
    raise ValueError(f"to: expected one of {known} for {with_article(kind)}, got {name!r}{did_you_mean(name, table)}")
