"""`fieldforge convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import Commands, add_command, add_configuration, add_device, add_manner


def add_convert(commands: Commands) -> None:
    convert = add_command(
        commands, "convert", _convert, "turn a field into another kind of field of the same picture, shape or scene"
    )
    convert.add_argument("field", type=Path, help=".field file of a picture, a shape or a scene: the teacher")
    convert.add_argument(
        "--to", required=True, metavar="NAME",
        help="what it becomes: of scenes mlp, hashgrid, tensorf, kplanes, densegrid, pref, ...; of pictures and shapes "
        "mlp, hashgrid, siren, ...",
    )  # fmt: skip
    convert.add_argument("-o", "--output", type=Path, help="the .field file to write; default: FIELD.NAME.field")
    add_configuration(convert)
    scene = convert.add_argument_group("of scenes")
    scene.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="learn the last steps from photos, and say how good it is beside them",
    )
    scene.add_argument(
        "--box",
        type=_box,
        metavar="X0,Y0,Z0,X1,Y1,Z1",
        help="the student's; 'content': around what the teacher holds (default of kilonerf); 'teacher': its own",
    )
    scene.add_argument(
        "--head", choices=("teacher", "own"), default="teacher",
        help="where the student's colour network begins: as the teacher's, if it is of one kind, or untrained",
    )  # fmt: skip
    scene.add_argument("--force", action="store_true", help="even if the field was fitted to other photos")
    stop = convert.add_argument_group("when to stop (default: the student's steps)")
    stop.add_argument("--steps", type=values.positive_int, metavar="N", help="after N steps")
    stop.add_argument("--seconds", type=values.positive, metavar="S", help="after about S seconds")
    stop.add_argument("--minutes", type=values.positive, metavar="M", help="after about M minutes")
    stop.add_argument(
        "--target", type=values.positive, metavar="Q",
        help="as soon as it is that near to the teacher: decibels; of shapes volume IoU, e.g. 0.99",
    )  # fmt: skip
    convert.add_argument(
        "--max-bytes", type=values.n_bytes, metavar="B", help="largest file wanted, e.g. 100000, 100KB or 1MB"
    )
    add_device(convert)
    add_manner(convert)


def _box(text: str) -> tuple[float, ...] | str:
    return text if text in ("content", "teacher") else values.box(text)


def _convert(options: argparse.Namespace) -> int:
    from fieldforge.apps.convert.command import convert_command

    return convert_command(options)
