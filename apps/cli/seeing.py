"""`fieldforge render`, `mesh`, `export`, `import` and `view`: fields to what can be looked at, and from elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import Commands, add_command, add_device

SIDES = ("front", "back", "left", "right", "top", "iso", "turntable")
"""From where a shape can be seen by name."""
ENGINES = ("auto", "dense", "occupied", "passes")
"""`fieldforge.apps.render.radiance.ENGINES`, without importing what renders."""


def add_render(commands: Commands) -> None:
    render = add_command(commands, "render", _render, "render a field to a picture, a sound or a video")
    render.add_argument("field", type=Path, help=".field file")
    render.add_argument(
        "-o", "--output", type=Path, required=True,
        help="PNG, JPEG, WebP, TIFF, EXR or HDR file; WAV for a sound; MP4 for a film, or a turntable of a shape or a "
        "scene; a folder for --split",
    )  # fmt: skip
    size = render.add_mutually_exclusive_group()
    size.add_argument(
        "--size", type=values.size, metavar="WxH",
        help="output size in pixels, e.g. 4000x3000; default: that of the source",
    )  # fmt: skip
    size.add_argument("--scale", type=values.positive, help="of an image: output pixels per source pixel; default: 1")
    render.add_argument(
        "--crop", type=values.crop, metavar="X,Y,W,H", help="of an image: a part, in source pixels; default: all"
    )
    render.add_argument(
        "--bits", type=int, choices=(8, 16, 24, 32),
        help="per channel of a PNG or TIFF: 8 or 16, default 8; of a WAV: 16, 24 or 32 (floats), default 16",
    )  # fmt: skip
    render.add_argument(
        "--max-level", type=values.positive_int, metavar="L",
        help="stop after this level of detail, from 1, of a network that has levels (PINs); default: the last",
    )  # fmt: skip
    sound = render.add_argument_group("of sounds")
    sound.add_argument("--rate", type=values.positive_int, metavar="HZ", help="samples a second; default: the clip's")
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
    scene.add_argument(
        "--engine", choices=ENGINES, default="auto",
        help="dense: every sample in the box; occupied: those where something is; passes: those, a few at a time until "
        "a ray ends; default: passes for fields of many small networks, occupied for others",
    )  # fmt: skip
    scene.add_argument("--force", action="store_true", help="of --split: even if the field was fitted to other photos")
    scene.add_argument(
        "--fps", type=values.pace, metavar="N", help="frames a second of a flight or a film; default: its own, or 30"
    )
    scene.add_argument(
        "--time", type=values.seconds, metavar="T",
        help="of a scene that moves: when, from 0 to 1; default: its beginning, and a video goes through all of it; "
        "of a film: the second of a single frame",
    )  # fmt: skip
    shape = render.add_argument_group("of shapes")
    shape.add_argument(
        "--view", type=_side, metavar="SIDE",
        help=f"from where: {', '.join(SIDES)}, or degrees to the right of the front and above, such as 35,25 (which is "
        "iso); front looks along -z where y points up, along +y where z does; default: iso, and turntable for an MP4",
    )  # fmt: skip
    shape.add_argument("--up", choices=("x", "y", "z"), default="y", help="the axis that points up")
    shape.add_argument("--shadows", action="store_true", help="of --clay: the light throws soft shadows")
    shape.add_argument(
        "--frames", type=values.positive_int, metavar="N", help="of a turntable or a flight; default: 120"
    )
    look = shape.add_mutually_exclusive_group()
    for mode, text in (
        ("clay", "lit, with ambient occlusion (the default)"),
        ("normals", "(n + 1) / 2 as colours, n out of the shape; scenes too, in world axes"),
        ("depth", "near is bright; scenes too"),
        ("curvature", "red where the surface bulges, blue where it is hollow"),
    ):
        look.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)
    render.add_argument("--quiet", action="store_true", help="say nothing but errors")
    render.add_argument(
        "--backend", type=values.backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )
    add_device(render)


def _render(options: argparse.Namespace) -> int:
    from fieldforge.apps.render.command import render_to_file

    return render_to_file(options)


def add_mesh(commands: Commands) -> None:
    mesh = add_command(commands, "mesh", _mesh, "turn a shape field back into triangles")
    mesh.add_argument("field", type=Path, help=".field file of a shape")
    mesh.add_argument("-o", "--output", type=Path, required=True, help="PLY, OBJ, STL, OFF or GLB file")
    mesh.add_argument("--resolution", type=values.positive_int, default=256, metavar="N", help="cells along each side")
    mesh.add_argument(
        "--level", type=float, metavar="D",
        help="which level, in the units of the mesh; default: the surface (one cell for an unsigned distance)",
    )  # fmt: skip
    mesh.add_argument("--simplify", type=values.share, metavar="S", help="keep this share of the triangles, e.g. 0.1")
    mesh.add_argument("--quiet", action="store_true", help="say nothing but errors")
    mesh.add_argument(
        "--backend", type=values.backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )
    add_device(mesh)


def _mesh(options: argparse.Namespace) -> int:
    from fieldforge.apps.mesh import mesh_command

    return mesh_command(options)


def add_export(commands: Commands) -> None:
    export = add_command(
        commands,
        "export",
        _export,
        "turn the field of a scene into a coloured cloud or mesh, or any into parameters of tiny-cuda-nn",
    )
    export.add_argument("field", type=Path, help=".field file of a scene; of a picture or shape too for tiny-cuda-nn")
    export.add_argument(
        "-o", "--output", type=Path, required=True,
        help="PLY file of a cloud of points; of a mesh where its name says so (mesh.ply), or OBJ, STL, OFF or GLB; or "
        "NPY file of parameters as tiny-cuda-nn keeps them, with their JSON beside it",
    )  # fmt: skip
    export.add_argument(
        "--to", choices=("cloud", "mesh", "tcnn"), help="what to make; default: as the name of the file says"
    )  # fmt: skip
    export.add_argument(
        "--crop", type=values.box, metavar="X0,Y0,Z0,X1,Y1,Z1", help="only what is in this box, in world units"
    )  # fmt: skip
    export.add_argument(
        "--level", type=values.positive, metavar="D",
        help="density of a surface, per world unit; default: 20 over the longest side of the field's box",
    )  # fmt: skip
    export.add_argument("--n", type=values.positive_int, metavar="N", help="points of a cloud; default: 1000000")
    export.add_argument("--seed", type=int, default=0, help="of the rays of a cloud")
    export.add_argument(
        "--data", type=Path, metavar="DIR", help="the photos, to look from all of their cameras and not only some"
    )  # fmt: skip
    export.add_argument(
        "--time", type=values.unit, metavar="T", help="of a scene that moves: when, from 0 to 1; default: its beginning"
    )  # fmt: skip
    export.add_argument(
        "--resolution", type=values.positive_int, metavar="N", help="of a mesh: cells a side; default: 256"
    )
    export.add_argument("--quiet", action="store_true", help="say nothing but errors")
    export.add_argument(
        "--backend", type=values.backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )
    add_device(export)


def _export(options: argparse.Namespace) -> int:
    from fieldforge.apps.export.command import export_command

    return export_command(options)


def add_import(commands: Commands) -> None:
    read = add_command(commands, "import", _import, "turn a network of instant-ngp or tiny-cuda-nn into a field")
    read.add_argument("file", type=Path, help="snapshot (.msgpack, .ingp), or parameters of tiny-cuda-nn (.npy)")
    read.add_argument("-o", "--output", type=Path, required=True, help=".field file")
    read.add_argument("--size", type=values.size, metavar="WxH", help="of a picture: its pixels")
    vector = read.add_argument_group("of parameters")
    vector.add_argument("--config", type=Path, metavar="FILE", help="JSON with the sections encoding and network")
    vector.add_argument("--kind", choices=("image", "shape"), help="what the network is of")
    read.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _import(options: argparse.Namespace) -> int:
    from fieldforge.apps.importing.command import import_command

    return import_command(options)


def add_view(commands: Commands) -> None:
    view = add_command(commands, "view", _view, "show a picture, a sound or a field in the terminal")
    view.add_argument("file", type=Path, help=".field file, picture or sound")
    view.add_argument("--width", type=values.positive_int, metavar="COLUMNS", help="character columns")


def _view(options: argparse.Namespace) -> int:
    from fieldforge.apps.view import show_file

    return show_file(options.file, width=options.width)


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
