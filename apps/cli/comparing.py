"""`fieldforge compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import Commands, add_command, add_device


def add_compare(commands: Commands) -> None:
    compare = add_command(commands, "compare", _compare, "fit several methods to one signal and lay them side by side")
    compare.add_argument("source", help="a picture, a sound, a film, a mesh, or a folder of posed photos")
    compare.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    compare.add_argument(
        "--methods", type=values.names, metavar="A,B,C",
        help="which, e.g. siren,spder,finer,wire,ffn,pref,sape,cam,hashgrid,rbf,kan,auto; a name that is not for the "
        "signal is answered with those that are; default: all of these, which takes a while",
    )  # fmt: skip
    compare.add_argument(
        "--signal",
        choices=("image", "audio", "video", "shape", "scene"),
        help="what the source is; default: by its name",
    )
    compare.add_argument(
        "--budget",
        type=values.duration,
        metavar="T",
        help="training time of each run, e.g. 30s or 2m; default: 30s where no --steps are given",
    )
    compare.add_argument(
        "--steps", type=values.positive_int, metavar="N",
        help="training steps of each run; with --budget whichever ends first; default: as many as the time allows",
    )  # fmt: skip
    compare.add_argument(
        "--params",
        type=values.count,
        metavar="P",
        help="number of parameters that each field is made as "
        "large as, 2 %% more at most, e.g. 200k; default: as the presets are",
    )
    compare.add_argument(
        "--tune-lr", nargs="?", const="", metavar="OTHER",
        help="tune each method's learning rate on another signal first, five fits of a quarter of the budget each: "
        "on a file, or without one on a drawn picture, sound, film or shape; of scenes a folder has to be named; "
        "default: the learning rates of the presets",
    )  # fmt: skip
    compare.add_argument("--seeds", type=values.positive_int, default=1, metavar="K", help="runs of each method")
    compare.add_argument(
        "--downscale", type=values.positive_int, default=1, metavar="K", help="of photos of a scene, of a film"
    )
    compare.add_argument("--backend", type=values.backend, default="auto", help="auto, reference, cpu or cuda")
    add_device(compare)
    speak = compare.add_mutually_exclusive_group()
    speak.add_argument("--quiet", action="store_true", help="say nothing but errors")
    speak.add_argument("--json", action="store_true", help="a line of JSON for each run on standard output")


def _compare(options: argparse.Namespace) -> int:
    from fieldforge.apps.compare.command import compare_command

    return compare_command(options)
