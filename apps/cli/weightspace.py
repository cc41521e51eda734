"""`fieldforge generate`: models of the weights of many fields, and what they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import Commands, add_again, add_command, add_configuration, add_device, add_voice


def add_generate(commands: Commands) -> None:
    generate = commands.add_parser("generate", help="train a model of the weights of many fields, and make new ones")
    generate.set_defaults(parser=generate)
    ways = generate.add_subparsers(title="ways", metavar="WAY")
    _add_train(ways)
    _add_sample(ways)
    _add_report(ways)
    _add_interpolate(ways)


def _add_train(ways: Commands) -> None:
    train = add_command(ways, "train", _train, "train a model on the fields of a collection")
    train.add_argument("collection", type=Path, help="folder of a collection")
    train.add_argument("-o", "--output", type=Path, required=True, help="the .gen file to write")
    train.add_argument(
        "--model", choices=("diffusion", "transformer", "gaussian", "pca", "jitter", "subset"), default="diffusion",
        help="diffusion of weights, by a residual MLP or by HyperDiffusion's transformer; or a baseline",
    )  # fmt: skip
    train.add_argument("--condition", choices=("label",), help="also learn which label a field has")
    add_configuration(train)
    stop = train.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=values.positive_int, metavar="N", help="after N steps")
    stop.add_argument("--minutes", type=values.positive, metavar="M", help="after about M minutes")
    train.add_argument("--seed", type=int, default=0, help="same seed, same bits")
    add_device(train)
    add_again(train, "training")
    add_voice(train)


def _add_sample(ways: Commands) -> None:
    sample = add_command(ways, "sample", _sample, "make new fields, pictures of them, and meshes of shapes")
    sample.add_argument("model", type=Path, help=".gen file")
    sample.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    sample.add_argument("-n", type=values.positive_int, default=64, metavar="N", help="how many")
    sample.add_argument("--seed", type=int, default=0, help="same seed, same fields")
    sample.add_argument("--label", help="of what all of them should be, e.g. 3; of a model with --condition label")
    sample.add_argument(
        "--guidance", type=values.positive, default=1.0, metavar="G", help="how much more than the label's own; 1: none"
    )
    sample.add_argument(
        "--steps-of-sampling", type=values.positive_int, metavar="N", help="steps back from noise; default: the model's"
    )
    sample.add_argument(
        "--resolution", type=values.positive_int, default=96, metavar="R", help="cells along a side, for meshes"
    )
    sample.add_argument("--no-meshes", action="store_true", help="of shapes: write no meshes")
    add_device(sample)
    add_voice(sample)


def _add_report(ways: Commands) -> None:
    report = add_command(ways, "report", _report, "how good and how new a model's fields are, beside all baselines")
    report.add_argument("model", type=Path, help=".gen file")
    report.add_argument("collection", type=Path, help="folder of the collection it was trained on")
    report.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the folder to write; default: beside the model"
    )
    report.add_argument(
        "-n", type=values.positive_int, metavar="N",
        help="samples, and held-out fields to compare with; default: as many as are held out, up to 400",
    )  # fmt: skip
    report.add_argument("--seeds", type=values.positive_int, default=1, metavar="K", help="sets of samples")
    report.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    add_device(report)
    report.add_argument("--quick", action="store_true", help="at most 100 samples; shapes are looked at less finely")
    add_voice(report)


def _add_interpolate(ways: Commands) -> None:
    way = add_command(ways, "interpolate", _interpolate, "fields between two fields, as a video or a row of pictures")
    way.add_argument("model", type=Path, help=".gen file")
    way.add_argument("a", type=Path, metavar="A.field", help="where it begins")
    way.add_argument("b", type=Path, metavar="B.field", help="where it ends")
    way.add_argument("-o", "--output", type=Path, required=True, help=".mp4 for a video, .png for a row of pictures")
    way.add_argument("--frames", type=values.positive_int, metavar="N", help="how many; default: 60, or 9 in a row")
    way.add_argument("--fps", type=values.pace, default=30, help="frames a second")
    way.add_argument("--size", type=values.positive_int, default=256, metavar="S", help="side of a picture in pixels")
    way.add_argument(
        "--steps-of-sampling", type=values.positive_int, metavar="N", help="steps to noise, and back; default: the "
        "model's",
    )  # fmt: skip
    add_device(way)
    add_voice(way)


def _train(options: argparse.Namespace) -> int:
    from fieldforge.apps.generate.train import train_command

    return train_command(options)


def _sample(options: argparse.Namespace) -> int:
    from fieldforge.apps.generate.sample import sample_command

    return sample_command(options)


def _report(options: argparse.Namespace) -> int:
    from fieldforge.apps.generate.report_command import report_command

    return report_command(options)


def _interpolate(options: argparse.Namespace) -> int:
    from fieldforge.apps.generate.interpolate import interpolate_command

    return interpolate_command(options)
