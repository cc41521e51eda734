"""The command line: what can be asked, in which words, and how errors are said.

Each command imports its room when it runs, so that ``--help`` is quick. A user's mistake is one sentence on standard
error: exit code 2 for usage (options, configuration), 1 for data (files that cannot be read or written). ``--debug``
shows the traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse with the nearest option named in errors, and no guessing from prefixes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        from fieldforge.checks import did_you_mean

        known = [option for action in self._actions for option in action.option_strings]
        words = [word for word in message.split() if word.startswith("--")]
        hint = did_you_mean(words[0].split("=")[0], known) if message.startswith("unrecognized") and words else ""
        print(f"fieldforge: {message}{hint}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="fieldforge", description="Fit, see and convert neural fields.")
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    _add_fit(commands)
    _add_render(commands)
    _add_mesh(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_info(commands)
    _add_view(commands)
    _add_collection(commands)
    _add_doctor(commands)
    _add_bench(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Before torch is loaded: its threads sleep instead of spinning between operations. On a machine that does other
    # work too, spinning threads make a fit several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    top = parser()
    options, unknown = top.parse_known_args(arguments)
    if unknown:
        getattr(options, "parser", top).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.version:
        import fieldforge

        print(fieldforge.__version__)
        return 0
    if not hasattr(options, "run"):
        getattr(options, "parser", top).print_help()
        return 0 if not arguments else 2
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader of our output (head, say) has seen enough
        sys.stderr.close()
        return 0
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if options.debug:
            raise
        return _say(str(error) or f"out of memory ({type(error).__name__})", _exit_code(error))


class UsageError(ValueError):
    """Options that do not go together, or an output that cannot be written."""


def _exit_code(error: BaseException) -> int:
    """1 for what files hold and what the machine lacks, 2 for what was asked for."""
    from fieldforge.apps.images import ImageError
    from fieldforge.apps.scenes.scene import SceneError
    from fieldforge.apps.shapes.read import ShapeError
    from fieldforge.backends import BackendError
    from fieldforge.fields.file import FieldFileError

    is_usage = isinstance(error, (ValueError, BackendError)) and not isinstance(
        error, (ImageError, SceneError, ShapeError, FieldFileError)
    )
    return 2 if is_usage else 1


def _say(sentence: str, code: int) -> int:
    print(f"fieldforge: {' '.join(sentence.split())}", file=sys.stderr)
    return code


SIDES = ("front", "back", "left", "right", "top", "iso", "turntable")
"""From where a shape can be seen by name."""

Commands = Any  # argparse's subparsers action has no public name


def _command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
    command: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run, parser=command)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_fit(commands: Commands) -> None:
    fit = commands.add_parser("fit", help="fit a field to a signal")
    fit.set_defaults(parser=fit)
    kinds = fit.add_subparsers(title="signals", metavar="SIGNAL")
    image = _command(kinds, "image", _fit_image, "fit an image field to a photo")
    image.add_argument("photo", help="PNG, JPEG, WebP, TIFF, EXR or HDR file")
    stop = _add_fit_options(image, "fast, balanced, best, tiny, siren, ffn, finer, spder, gauss or wire")
    stop.add_argument("--psnr", type=_positive, metavar="DB", help="as soon as the picture is that good")
    image.add_argument("--report", type=Path, help="picture of source, fit and error; default: beside the output")
    image.add_argument("--no-report", action="store_true", help="write no report picture")
    shape = _command(kinds, "shape", _fit_shape, "fit a shape field to a mesh or a cloud of points")
    shape.add_argument("shape", help="OBJ, PLY, STL, OFF, GLB or NPZ file; of points, PLY, XYZ, NPY, NPZ or LAS")
    shape.add_argument(
        "--kind", choices=("sdf", "occupancy", "udf"), default="sdf",
        help="signed distance, inside or outside, or distance without a sign (for open sheets)",
    )  # fmt: skip
    shape.add_argument(
        "--smooth-derivatives", type=_positive_int, default=0, metavar="N",
        help="N further steps that bring normals by autodiff nearer to those of a local fit, for rough fits, e.g. 400",
    )  # fmt: skip
    stop = _add_fit_options(shape, "fast, balanced, best, tiny, siren or finer; of points also igr")
    stop.add_argument("--iou", type=_share, metavar="Q", help="as soon as the volume IoU is that good, e.g. 0.99")
    scene = _command(kinds, "scene", _fit_scene, "fit a radiance field to posed photos")
    scene.add_argument("scene", help="folder with transforms.json and kin, or an NPZ file of images, poses and focal")
    stop = _add_fit_options(scene, "fast, balanced, best or vanilla")
    stop.add_argument("--minutes", type=_positive, metavar="M", help="after about M minutes")
    stop.add_argument("--psnr", type=_positive, metavar="DB", help="as soon as held-out views are that good")
    scene.add_argument("--downscale", type=_positive_int, default=1, metavar="K", help="K x K pixels become one")
    scene.add_argument(
        "--background", choices=("white", "black", "random", "learned"),
        help="behind the scene in training: of photos with alpha any but learned, of others what they show, or learned",
    )  # fmt: skip
    scene.add_argument("--allow-missing", action="store_true", help="go on without views whose photos are not there")
    scene.add_argument(
        "--report", type=Path, metavar="DIR",
        help="folder for pictures of a held-out view beside its photo while the fit goes on, and a page at its end",
    )  # fmt: skip
    collection = _command(kinds, "collection", _fit_collection, "fit a field to each of many pictures or meshes")
    collection.add_argument("source", help="NPZ file of images, folder of pictures or meshes, or zip of meshes")
    _add_collection_options(collection)


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
    command.add_argument("--inits-per-item", type=_positive_int, default=1, metavar="K", help="fields of each item")
    command.add_argument("--preset", help="siren, relu or tiny; default: siren for pictures, relu for shapes")
    _add_configuration(command)
    command.add_argument("--limit", type=_positive_int, metavar="N", help="the first N items only")
    command.add_argument("--white", type=_positive, metavar="V", help="of NPZ files: the number that is white")
    command.add_argument("--skip-bad", action="store_true", help="leave out items that cannot be read")
    command.add_argument(
        "--refit-below", type=_positive, metavar="Q", help="fit fields below Q (dB, or IoU) again, longer"
    )
    stop = command.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=_positive_int, metavar="N", help="steps of each field")
    stop.add_argument("--seconds", type=_positive, metavar="S", help="after about S seconds, with what is finished")
    command.add_argument("--executor", choices=("local",), default="local", help="who does the work")
    _add_manner(command)


def _fit_collection(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.collection.command import fit_collection_command

    return fit_collection_command(options)


def _add_fit_options(command: Parser, presets: str) -> Any:
    """What every fit understands; returns the group of when to stop."""
    command.add_argument("-o", "--output", type=Path, help="the .field file to write; default: beside the source")
    command.add_argument("--preset", default="balanced", help=presets)
    _add_configuration(command)
    stop = command.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=_positive_int, metavar="N", help="after N steps")
    stop.add_argument("--seconds", type=_positive, metavar="S", help="after about S seconds")
    command.add_argument(
        "--max-bytes", type=_bytes, metavar="B", help="largest file wanted, e.g. 100000, 100KB or 2MiB"
    )
    _add_manner(command)
    return stop


def _add_configuration(command: Parser) -> None:
    """Over a preset."""
    command.add_argument(
        "--config", type=Path, help="run file (TOML) or tiny-cuda-nn network file (JSON) over the preset"
    )
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change one key, e.g. encoding.n_levels=12; may be repeated",
    )  # fmt: skip


def _add_manner(command: Parser) -> None:
    """How any fit is done, and how it speaks."""
    command.add_argument("--seed", type=int, default=0, help="same seed, same bits")
    command.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted fit")
    again.add_argument("--restart", action="store_true", help="discard an interrupted fit and start anew")
    command.add_argument("--print-config", action="store_true", help="print the run file that would be used and stop")
    speak = command.add_mutually_exclusive_group()
    speak.add_argument("--quiet", action="store_true", help="say nothing but errors")
    speak.add_argument("--json", action="store_true", help="progress and result as JSON lines on standard output")


def _fit_shape(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.shape.command import fit_shape_command

    return fit_shape_command(options)


def _fit_scene(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.scene.command import fit_scene_command

    return fit_scene_command(options)


def _fit_image(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.image.command import fit_image

    return fit_image(options)


def _add_render(commands: Commands) -> None:
    render = _command(commands, "render", _render, "render a field to a picture of any size, or to a video")
    render.add_argument("field", type=Path, help=".field file")
    render.add_argument(
        "-o", "--output", type=Path, required=True,
        help="PNG, JPEG, WebP, TIFF, EXR or HDR file; MP4 for a turntable of a shape or a scene; a folder for --split",
    )  # fmt: skip
    size = render.add_mutually_exclusive_group()
    size.add_argument("--size", type=_size, metavar="WxH", help="output size in pixels, e.g. 4000x3000")
    size.add_argument("--scale", type=_positive, help="of an image: output pixels per source pixel")
    render.add_argument("--crop", type=_crop, metavar="X,Y,W,H", help="of an image: a part, in source pixels")
    render.add_argument("--bits", type=int, choices=(8, 16), default=8, help="bits per channel of a PNG or TIFF")
    scene = render.add_argument_group("of scenes")
    scene.add_argument("--split", choices=("train", "val", "test"), help="the views of the photos, with PSNR and SSIM")
    scene.add_argument(
        "--data", type=Path, metavar="DIR", help="the photos of a --split, or whose cameras a --path has"
    )
    scene.add_argument(
        "--path", type=_path, metavar="PATH",
        help="where a video flies along: orbit, spiral, interpolate (through the cameras of the photos), or a camera "
        "path in JSON of nerfstudio, instant-ngp or nerfbaselines; default: orbit, or spiral where all photos look the "
        "same way",
    )  # fmt: skip
    scene.add_argument("--force", action="store_true", help="of --split: even if the field was fitted to other photos")
    scene.add_argument("--fps", type=_pace, metavar="N", help="frames a second of a flight; default: the path's, or 30")
    scene.add_argument(
        "--time", type=_unit, metavar="T",
        help="of a scene that moves: when, from 0 to 1; default: its beginning, and a video goes through all of it",
    )  # fmt: skip
    shape = render.add_argument_group("of shapes")
    shape.add_argument(
        "--view", type=_side, metavar="SIDE",
        help=f"from where: {', '.join(SIDES)}, or degrees to the right of the front and above, such as 35,25 (which is "
        "iso); front looks along -z where y points up, along +y where z does; default: iso, and turntable for an MP4",
    )  # fmt: skip
    shape.add_argument("--up", choices=("x", "y", "z"), default="y", help="the axis that points up")
    shape.add_argument("--shadows", action="store_true", help="of --clay: the light throws soft shadows")
    shape.add_argument("--frames", type=_positive_int, metavar="N", help="of a turntable or a flight; default: 120")
    look = shape.add_mutually_exclusive_group()
    for mode, text in (
        ("clay", "lit, with ambient occlusion (the default)"),
        ("normals", "(n + 1) / 2 as colours, n out of the shape; scenes too, in world axes"),
        ("depth", "near is bright; scenes too"),
        ("curvature", "red where the surface bulges, blue where it is hollow"),
    ):
        look.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)
    render.add_argument("--quiet", action="store_true", help="say nothing but errors")
    render.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")


def _render(options: argparse.Namespace) -> int:
    from fieldforge.apps.render.command import render_to_file

    return render_to_file(options)


def _add_mesh(commands: Commands) -> None:
    mesh = _command(commands, "mesh", _mesh, "turn a shape field back into triangles")
    mesh.add_argument("field", type=Path, help=".field file of a shape")
    mesh.add_argument("-o", "--output", type=Path, required=True, help="PLY, OBJ, STL, OFF or GLB file")
    mesh.add_argument("--resolution", type=_positive_int, default=256, metavar="N", help="cells along each side")
    mesh.add_argument(
        "--level", type=float, metavar="D",
        help="which level, in the units of the mesh; default: the surface (one cell for an unsigned distance)",
    )  # fmt: skip
    mesh.add_argument("--simplify", type=_share, metavar="S", help="keep this share of the triangles, e.g. 0.1")
    mesh.add_argument("--quiet", action="store_true", help="say nothing but errors")
    mesh.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")


def _mesh(options: argparse.Namespace) -> int:
    from fieldforge.apps.mesh import mesh_command

    return mesh_command(options)


def _add_export(commands: Commands) -> None:
    export = _command(commands, "export", _export, "turn the field of a scene into a coloured cloud or mesh")
    export.add_argument("field", type=Path, help=".field file of a scene")
    export.add_argument(
        "-o", "--output", type=Path, required=True,
        help="PLY file of a cloud of points; of a mesh where its name says so (mesh.ply), or OBJ, STL, OFF or GLB",
    )  # fmt: skip
    export.add_argument("--to", choices=("cloud", "mesh"), help="what to make; default: as the name of the file says")
    export.add_argument(
        "--crop", type=_box, metavar="X0,Y0,Z0,X1,Y1,Z1", help="only what is in this box, in world units"
    )  # fmt: skip
    export.add_argument(
        "--level", type=_positive, metavar="D",
        help="density of a surface, per world unit; default: 20 over the longest side of the field's box",
    )  # fmt: skip
    export.add_argument("--n", type=_positive_int, metavar="N", help="points of a cloud; default: 1000000")
    export.add_argument("--seed", type=int, default=0, help="of the rays of a cloud")
    export.add_argument(
        "--data", type=Path, metavar="DIR", help="the photos, to look from all of their cameras and not only some"
    )  # fmt: skip
    export.add_argument(
        "--time", type=_unit, metavar="T", help="of a scene that moves: when, from 0 to 1; default: its beginning"
    )  # fmt: skip
    export.add_argument("--resolution", type=_positive_int, metavar="N", help="of a mesh: cells a side; default: 256")
    export.add_argument("--quiet", action="store_true", help="say nothing but errors")
    export.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")


def _export(options: argparse.Namespace) -> int:
    from fieldforge.apps.export.command import export_command

    return export_command(options)


def _add_evaluate(commands: Commands) -> None:
    evaluate = _command(
        commands, "evaluate", _evaluate,
        "say how good a field is: a shape against its mesh or its points, a scene against its held-out photos",
    )  # fmt: skip
    evaluate.add_argument("field", type=Path, help=".field file of a shape or a scene")
    evaluate.add_argument(
        "source", type=Path, help="the mesh it should be; of a scene the folder of its photos, in which gt_test/*.npz "
        "may hold true depths and normals",
    )  # fmt: skip
    shape = evaluate.add_argument_group("of shapes")
    shape.add_argument(
        "--resolution", type=_positive_int, metavar="N", help="of the mesh taken from it; default: 256"
    )  # fmt: skip
    shape.add_argument("--points", type=_positive_int, metavar="N", help="samples for each figure; default: 262144")
    shape.add_argument("--seed", type=int, default=0, help="of the samples")
    scene = evaluate.add_argument_group("of scenes")
    scene.add_argument("--force", action="store_true", help="even if the field was fitted to other photos")
    scene.add_argument("--allow-missing", action="store_true", help="go on without views whose photos are not there")
    evaluate.add_argument("--json", action="store_true", help="the figures as one line of JSON")
    evaluate.add_argument(
        "--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from fieldforge.apps.evaluate import evaluate_command

    return evaluate_command(options)


def _add_info(commands: Commands) -> None:
    info = _command(commands, "info", _info, "say what a .field file, a collection, or a folder of posed photos is")
    info.add_argument("field", type=Path, help=".field file, collection, folder of posed photos, or NPZ file of them")
    info.add_argument("--json", action="store_true", help="the whole header as JSON")


def _info(options: argparse.Namespace) -> int:
    from fieldforge.apps.collections.describe import is_collection
    from fieldforge.apps.collections.describe import print_info as print_collection
    from fieldforge.apps.info import print_info

    if is_collection(options.field):
        return print_collection(options.field, as_json=options.json)
    if options.field.is_dir() or options.field.suffix in (".npz", ".npy"):
        from fieldforge.apps.scenes import describe, read_scene

        print("\n".join(describe(read_scene(options.field, allow_missing=True))))
        return 0
    return print_info(options.field, as_json=options.json)


def _add_view(commands: Commands) -> None:
    view = _command(commands, "view", _view, "show a picture or a field in the terminal")
    view.add_argument("file", type=Path, help=".field file or picture")
    view.add_argument("--width", type=_positive_int, metavar="COLUMNS", help="character columns")


def _view(options: argparse.Namespace) -> int:
    from fieldforge.apps.view import show_file

    return show_file(options.file, width=options.width)


def _add_collection(commands: Commands) -> None:
    collection = commands.add_parser("collection", help="bring collections of fields in and out, and check them")
    collection.set_defaults(parser=collection)
    ways = collection.add_subparsers(title="ways", metavar="WAY")
    out = _command(ways, "export", _collection, "write a collection as HDF5, or fields of it as .field files")
    out.add_argument("collection", type=Path, help="folder of a collection")
    out.add_argument("-o", "--output", type=Path, required=True, help="HDF5 file, or a folder for .field files")
    out.add_argument("--only", metavar="NUMBERS", help="of .field files: which, e.g. 3,17-20")
    back = _command(ways, "import", _collection, "make a collection of an HDF5 file (fit-a-nef)")
    back.add_argument("file", type=Path, help="HDF5 file with params and param_config")
    back.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    back.add_argument("--config", type=Path, help="JSON or TOML file of what the fields are, if the file does not say")
    check = _command(ways, "check", _collection, "read all of a collection and name the fields that cannot be used")
    check.add_argument("collection", type=Path, help="folder of a collection")


def _collection(options: argparse.Namespace) -> int:
    from fieldforge.apps.collections import command

    runs = {"export": command.export_command, "import": command.import_command, "check": command.check_command}
    return runs[options.parser.prog.split()[-1]](options)


def _add_doctor(commands: Commands) -> None:
    doctor = _command(commands, "doctor", _doctor, "say what this installation can do, and why not more")
    doctor.add_argument("--speed", action="store_true", help="time a training step, natively and by the reference")


def _doctor(options: argparse.Namespace) -> int:
    from fieldforge.apps import doctor
    from fieldforge.apps.doctor import speed

    return speed.main() if options.speed else doctor.main()


def _add_bench(commands: Commands) -> None:
    from fieldforge.apps.bench import SUITES

    bench = _command(commands, "bench", _bench, "measure against plain PyTorch; rows go to data/bench")
    bench.add_argument("suite", choices=SUITES, help="what to measure")
    bench.add_argument(
        "--data",
        type=Path,
        help="folder of pictures ('presets'), meshes ('shape', 'clouds', 'operators') or scenes ('scene...')",
    )  # fmt: skip
    bench.add_argument("--rows", type=Path, default=Path("data/bench"), help="folder of the JSON lines")
    bench.add_argument("--quick", action="store_true", help="small sizes, no rows written: does it run?")
    bench.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="W1,W3",
        help="of the suite 'cpu': W1 to W5, astronaut, no rows written; of 'scene': race, marching, or a scene's name; "
        "of 'scene_models': presets",
    )  # fmt: skip
    bench.add_argument("--repeats", type=_positive_int, metavar="N", help="of the suite 'cpu': turns of each candidate")


def _bench(options: argparse.Namespace) -> int:
    from fieldforge.apps.bench import main as bench_main

    return bench_main(
        options.suite, rows=options.rows, data=options.data, is_quick=options.quick, only=options.only,
        repeats=options.repeats,
    )  # fmt: skip


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text}")
    return value


def _unit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def _positive_int(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def _backend(text: str) -> str:
    from fieldforge.backends import BACKENDS
    from fieldforge.checks import expect_choice

    try:
        return expect_choice("backend", text, ("auto", *BACKENDS))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    """'100000', '100KB', '2 MiB' -> bytes; a kilobyte is 1000 bytes, a kibibyte 1024.

    Example:
        >>> _bytes("100KB"), _bytes("2MiB")
        (100000, 2097152)
    """
    units = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        value = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected a size such as 100000, 100KB or 2MiB, got {text}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a size of at least 1 byte, got {text}")
    return value


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 4000x3000, got {text}") from None
    return width, height


def _side(text: str) -> str | tuple[float, float]:
    """A named side, or azimuth and elevation in degrees."""
    if text in SIDES:
        return text
    try:
        azimuth, elevation = (float(part) for part in text.split(","))
    except ValueError:
        azimuth = elevation = float("nan")
    if not (-360 <= azimuth <= 360 and -90 < elevation < 90):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(SIDES)}, or degrees such as 35,25 (at most 360 around, under 90 up), got {text}"
        )
    return azimuth, elevation


def _path(text: str) -> str:
    """A named path, or a JSON file."""
    from fieldforge.checks import did_you_mean

    names = ("orbit", "spiral", "interpolate")
    if text not in names and not text.lower().endswith(".json"):
        hint = did_you_mean(text, names)
        raise argparse.ArgumentTypeError(f"expected {', '.join(names)}, or a .json file, got {text}{hint}")
    return text


def _pace(text: str) -> float:
    value = _positive(text)
    if not 1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"expected 1 to 240 frames a second, got {text}")
    return value


def _crop(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected X,Y,WIDTH,HEIGHT such as 100,50,64,64, got {text}") from None
    return x, y, width, height


def _box(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 6 or not all(abs(number) <= 1e12 for number in numbers):
        raise argparse.ArgumentTypeError(f"expected X0,Y0,Z0,X1,Y1,Z1 such as -1,-1,-1,1,1,1, got {text}")
    return numbers


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, sort_keys=True), flush=True)
