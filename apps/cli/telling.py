"""`fieldforge evaluate`, `info`, `list`, `doctor` and `bench`: what things are, and how good."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import Commands, add_command, add_device


def add_evaluate(commands: Commands) -> None:
    evaluate = add_command(
        commands, "evaluate", _evaluate,
        "say how good a field is: a shape against its mesh or its points, a scene against its held-out photos, a sound "
        "or a film against its file",
    )  # fmt: skip
    evaluate.add_argument("field", type=Path, help=".field file of a shape, a scene, a sound or a film")
    evaluate.add_argument(
        "source", type=Path, help="the mesh, sound or film it should be; of a scene the folder of its photos, in which "
        "gt_test/*.npz may hold true depths and normals",
    )  # fmt: skip
    shape = evaluate.add_argument_group("of shapes")
    shape.add_argument(
        "--resolution", type=values.positive_int, metavar="N", help="of the mesh taken from it; default: 256"
    )  # fmt: skip
    shape.add_argument(
        "--points", type=values.positive_int, metavar="N", help="samples for each figure; default: 262144"
    )
    shape.add_argument("--seed", type=int, default=0, help="of the samples")
    scene = evaluate.add_argument_group("of scenes")
    scene.add_argument("--force", action="store_true", help="even if the field was fitted to other photos")
    scene.add_argument("--allow-missing", action="store_true", help="go on without views whose photos are not there")
    evaluate.add_argument("--json", action="store_true", help="the figures as one line of JSON")
    evaluate.add_argument(
        "--backend", type=values.backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )
    add_device(evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from fieldforge.apps.evaluate import evaluate_command

    return evaluate_command(options)


def add_info(commands: Commands) -> None:
    info = add_command(
        commands, "info", _info, "say what a field, a model of weights, a collection, or a folder of posed photos is"
    )
    info.add_argument(
        "field", type=Path, help=".field file, model, collection, folder of posed photos, or NPZ file of them"
    )
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


def add_list(commands: Commands) -> None:
    listing = add_command(
        commands, "list", _list, "say what a run file can be made of, and which methods can be compared, a line each"
    )
    listing.add_argument(
        "kind", nargs="?", help="encoding, activation, network, selection, diagnostic, ..., or methods; default: all "
        "kinds and their names",
    )  # fmt: skip
    listing.add_argument("--json", action="store_true", help="as one line of JSON")


def _list(options: argparse.Namespace) -> int:
    from fieldforge.apps.parts import list_command

    return list_command(options.kind, as_json=options.json)


def add_doctor(commands: Commands) -> None:
    doctor = add_command(commands, "doctor", _doctor, "say what this installation can do, and why not more")
    doctor.add_argument("--speed", action="store_true", help="time a training step, natively and by the reference")


def _doctor(options: argparse.Namespace) -> int:
    from fieldforge.apps import doctor
    from fieldforge.apps.doctor import speed

    return speed.main() if options.speed else doctor.main()


def add_bench(commands: Commands) -> None:
    from fieldforge.apps.bench import OF_PARTS, SUITES

    bench = add_command(commands, "bench", _bench, "measure against plain PyTorch; rows go to data/bench")
    bench.add_argument("suite", choices=SUITES, help="what to measure")
    bench.add_argument(
        "--data",
        type=Path,
        help="folder of what is measured on: pictures ('presets'), sounds and films ('signals'), meshes ('shape', "
        "'clouds', 'operators'), scenes ('scene...', 'convert', 'gpu'), or digits and shapes (what is about weights)",
    )  # fmt: skip
    bench.add_argument("--rows", type=Path, default=Path("data/bench"), help="folder of the JSON lines")
    bench.add_argument("--quick", action="store_true", help="small sizes, no rows written: does it run?")
    bench.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="W1,W3",
        help="of the suite 'cpu': W1 to W5, astronaut, no rows written; of 'gpu': correct, picture, scene, work, "
        "compiled; of 'scene': race, marching, or a scene's name; "
        f"of {', '.join(OF_PARTS[1:])}: some of their cases",
    )  # fmt: skip
    bench.add_argument(
        "--repeats", type=values.positive_int, metavar="N", help="of the suite 'cpu': turns of each candidate"
    )


def _bench(options: argparse.Namespace) -> int:
    from fieldforge.apps.bench import main as bench_main

    return bench_main(
        options.suite, rows=options.rows, data=options.data, is_quick=options.quick, only=options.only,
        repeats=options.repeats,
    )  # fmt: skip
