"""`fieldforge fit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import (
    Commands,
    Parser,
    add_command,
    add_configuration,
    add_device,
    add_diagnostics,
    add_manner,
    add_tuning,
)


def add_fit(commands: Commands) -> None:
    fit = commands.add_parser("fit", help="fit a field to a signal")
    fit.set_defaults(parser=fit)
    kinds = fit.add_subparsers(title="signals", metavar="SIGNAL")
    image = add_command(kinds, "image", _fit_image, "fit an image field to a photo")
    image.add_argument("photo", help="PNG, JPEG, WebP, TIFF, EXR or HDR file")
    stop = _add_fit_options(image, "fast, balanced, best, tiny, siren, ffn, finer, spder, gauss, wire or kilonerf")
    stop.add_argument(
        "--psnr", type=values.positive, metavar="DB", help="as soon as the PSNR of the picture is DB decibels"
    )
    _add_report(image, "picture of source, fit and error")
    _add_audio(kinds)
    _add_video(kinds)
    shape = add_command(kinds, "shape", _fit_shape, "fit a shape field to a mesh or a cloud of points")
    shape.add_argument("shape", help="OBJ, PLY, STL, OFF, GLB or NPZ file; of points, PLY, XYZ, NPY, NPZ or LAS")
    shape.add_argument(
        "--kind", choices=("sdf", "occupancy", "udf"), default="sdf",
        help="signed distance, inside or outside, or distance without a sign (for open sheets)",
    )  # fmt: skip
    shape.add_argument(
        "--smooth-derivatives", type=values.positive_int, default=0, metavar="N",
        help="N further steps that bring normals by autodiff nearer to those of a local fit, for rough fits, e.g. 400",
    )  # fmt: skip
    stop = _add_fit_options(shape, "fast, balanced, best, tiny, siren, finer or kilonerf; of points also igr")
    stop.add_argument("--iou", type=values.share, metavar="Q", help="as soon as the volume IoU is that good, e.g. 0.99")
    scene = add_command(kinds, "scene", _fit_scene, "fit a radiance field to posed photos")
    scene.add_argument("scene", help="folder with transforms.json and kin, or an NPZ file of images, poses and focal")
    stop = _add_fit_options(
        scene, "fast, balanced, best, proposal, vanilla, vanilla-occupied, tensorf, tensorf-cp, kplanes, pref, "
        "densegrid, mimlp or kilonerf",
    )  # fmt: skip
    stop.add_argument("--minutes", type=values.positive, metavar="M", help="after about M minutes")
    stop.add_argument("--psnr", type=values.positive, metavar="DB", help="as soon as the PSNR of held-out views is DB")
    scene.add_argument("--downscale", type=values.positive_int, default=1, metavar="K", help="K x K pixels become one")
    scene.add_argument(
        "--background", choices=("white", "black", "random", "learned"),
        help="behind the scene in training: of photos with alpha any but learned, of others what they show, or learned",
    )  # fmt: skip
    scene.add_argument("--allow-missing", action="store_true", help="go on without views whose photos are not there")
    scene.add_argument(
        "--report", type=Path, metavar="DIR",
        help="folder for pictures of a held-out view beside its photo while the fit goes on, and a page at its end",
    )  # fmt: skip
    collection = add_command(kinds, "collection", _fit_collection, "fit a field to each of many pictures or meshes")
    collection.add_argument("source", help="NPZ file of images, folder of pictures or meshes, or zip of meshes")
    _add_collection_options(collection)


def _add_audio(kinds: Commands) -> None:
    audio = add_command(kinds, "audio", _fit_audio, "fit an audio field to a sound")
    audio.add_argument("clip", help="WAV file; OGG, FLAC, MP3, M4A or AIFF with the extra 'video'")
    audio.add_argument(
        "--from", dest="start", type=values.seconds, metavar="S", help="leave out the first S seconds; default: 0"
    )
    audio.add_argument("--to", dest="stop", type=values.seconds, metavar="S", help="end at second S; default: the end")
    stop = _add_fit_options(audio, "fast, balanced, best, siren, spder, finer or cam")
    stop.add_argument(
        "--snr", type=values.positive, metavar="DB", help="as soon as the error is DB decibels below the sound"
    )
    _add_report(audio, "picture of waveform, spectrograms and error")


def _add_video(kinds: Commands) -> None:
    video = add_command(kinds, "video", _fit_video, "fit a video field to a film")
    video.add_argument("clip", help="MP4, MOV, MKV, WebM, AVI or GIF file; needs the extra 'video'")
    size = video.add_mutually_exclusive_group()
    size.add_argument("--size", type=values.size, metavar="WxH", help="scale the frames; default: as they are")
    size.add_argument("--downscale", type=values.positive_int, default=1, metavar="K", help="K x K pixels become one")
    video.add_argument(
        "--frames", type=values.span, metavar="A:B",
        help="only frames A to B - 1, counted from 0; or A:, or :B; default: all",
    )  # fmt: skip
    stop = _add_fit_options(video, "fast, balanced, best, kplanes, siren, spder or cam")
    stop.add_argument(
        "--psnr", type=values.positive, metavar="DB", help="as soon as the mean PSNR of frames is DB decibels"
    )
    _add_report(video, "picture of some frames, source, fit and error")


def _add_report(command: Parser, what: str) -> None:
    command.add_argument("--report", type=Path, help=f"{what}; default: beside the output")
    command.add_argument("--no-report", action="store_true", help="write no report picture")


def _add_fit_options(command: Parser, presets: str) -> Any:
    """What every fit understands; returns the group of when to stop."""
    command.add_argument("-o", "--output", type=Path, help="the .field file to write; default: beside the source")
    command.add_argument("--preset", default="balanced", help=presets)
    add_configuration(command)
    add_tuning(command)
    add_diagnostics(command)
    stop = command.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=values.positive_int, metavar="N", help="after N steps")
    stop.add_argument("--seconds", type=values.positive, metavar="S", help="after about S seconds")
    command.add_argument(
        "--precision", choices=("float32", "float16", "bfloat16"),
        help="what networks multiply in training, for CUDA devices; default: the run file's fit.precision, or float32",
    )  # fmt: skip
    command.add_argument(
        "--max-bytes",
        type=values.n_bytes,
        metavar="B",
        help="largest file wanted, in bytes, e.g. 100000, 100KB or 2MiB; default: as the preset's",
    )
    add_device(command)
    add_manner(command)
    return stop


def _fit_image(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.image.command import fit_image

    return fit_image(options)


def _fit_audio(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.audio.command import fit_audio_command

    return fit_audio_command(options)


def _fit_video(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.video.command import fit_video_command

    return fit_video_command(options)


def _fit_shape(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.shape.command import fit_shape_command

    return fit_shape_command(options)


def _fit_scene(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.scene.command import fit_scene_command

    return fit_scene_command(options)


def _add_collection_options(command: Parser) -> None:
    """Of fits of many."""
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the folder of fields to write"
    )
    command.add_argument("--kind", choices=("image", "shape", "occupancy", "sdf"), help="shape is occupancy; default: "
                         "what the items are")  # fmt: skip
    command.add_argument(
        "--init", choices=("random", "shared", "first"), default="random",
        help="what fields begin with: numbers of their own, the same for all, or where the first item ended",
    )  # fmt: skip
    command.add_argument(
        "--inits-per-item", type=values.positive_int, default=1, metavar="K", help="fields of each item"
    )
    command.add_argument("--preset", help="siren, relu, tiny or triplane; default: siren for pictures, relu for shapes")
    add_configuration(command)
    command.add_argument("--limit", type=values.positive_int, metavar="N", help="the first N items only")
    command.add_argument("--white", type=values.positive, metavar="V", help="of NPZ files: the number that is white")
    command.add_argument("--skip-bad", action="store_true", help="leave out items that cannot be read")
    command.add_argument(
        "--refit-below", type=values.positive, metavar="Q", help="fit fields below Q (dB, or IoU) again, longer"
    )
    stop = command.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=values.positive_int, metavar="N", help="steps of each field")
    stop.add_argument(
        "--seconds", type=values.positive, metavar="S", help="after about S seconds, with what is finished"
    )
    who = command.add_argument_group("who does the work")
    who.add_argument("--executor", choices=("local", "ray"), default="local", help="this process, or a Ray cluster")
    who.add_argument("--workers", type=values.positive_int, metavar="N", help="of Ray, one thread each; default: all "
                     "cores")  # fmt: skip
    who.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster; default: start one here")
    add_device(command)
    add_manner(command)


def _fit_collection(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.collection.command import fit_collection_command

    return fit_collection_command(options)
