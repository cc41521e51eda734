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
    _add_info(commands)
    _add_view(commands)
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
    from fieldforge.backends import BackendError
    from fieldforge.fields.file import FieldFileError

    is_usage = isinstance(error, (ValueError, BackendError)) and not isinstance(error, (ImageError, FieldFileError))
    return 2 if is_usage else 1


def _say(sentence: str, code: int) -> int:
    print(f"fieldforge: {' '.join(sentence.split())}", file=sys.stderr)
    return code


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
    image.add_argument("-o", "--output", type=Path, help="the .field file to write; default: beside the photo")
    image.add_argument(
        "--preset", default="balanced", help="fast, balanced, best, tiny, siren, ffn, finer, spder, gauss or wire"
    )
    image.add_argument(
        "--config", type=Path, help="run file (TOML) or tiny-cuda-nn network file (JSON) over the preset"
    )
    image.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change one key, e.g. encoding.n_levels=12; may be repeated",
    )  # fmt: skip
    stop = image.add_argument_group("when to stop (default: the preset's steps)")
    stop.add_argument("--steps", type=_positive_int, metavar="N", help="after N steps")
    stop.add_argument("--seconds", type=_positive, metavar="S", help="after about S seconds")
    stop.add_argument("--psnr", type=_positive, metavar="DB", help="as soon as the picture is that good")
    image.add_argument("--max-bytes", type=_bytes, metavar="B", help="largest file wanted, e.g. 100000, 100KB or 2MiB")
    image.add_argument("--seed", type=int, default=0, help="same seed, same bits")
    image.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")
    again = image.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue an interrupted fit")
    again.add_argument("--restart", action="store_true", help="discard an interrupted fit and start anew")
    image.add_argument("--report", type=Path, help="picture of source, fit and error; default: beside the output")
    image.add_argument("--no-report", action="store_true", help="write no report picture")
    image.add_argument("--print-config", action="store_true", help="print the run file that would be used and stop")
    speak = image.add_mutually_exclusive_group()
    speak.add_argument("--quiet", action="store_true", help="say nothing but errors")
    speak.add_argument("--json", action="store_true", help="progress and result as JSON lines on standard output")


def _fit_image(options: argparse.Namespace) -> int:
    from fieldforge.apps.fit.command import fit_image

    return fit_image(options)


def _add_render(commands: Commands) -> None:
    render = _command(commands, "render", _render, "render a field to a picture of any size")
    render.add_argument("field", type=Path, help=".field file")
    render.add_argument("-o", "--output", type=Path, required=True, help="PNG, JPEG, WebP, TIFF, EXR or HDR file")
    size = render.add_mutually_exclusive_group()
    size.add_argument("--size", type=_size, metavar="WxH", help="output size in pixels, e.g. 4000x3000")
    size.add_argument("--scale", type=_positive, help="output pixels per source pixel")
    render.add_argument("--crop", type=_crop, metavar="X,Y,W,H", help="part of the picture, in source pixels")
    render.add_argument("--bits", type=int, choices=(8, 16), default=8, help="bits per channel of a PNG or TIFF")
    render.add_argument("--quiet", action="store_true", help="say nothing but errors")
    render.add_argument("--backend", type=_backend, default="auto", help="what computes: auto, reference, cpu or cuda")


def _render(options: argparse.Namespace) -> int:
    from fieldforge.apps.render.command import render_to_file

    return render_to_file(options)


def _add_info(commands: Commands) -> None:
    info = _command(commands, "info", _info, "say what a .field file is")
    info.add_argument("field", type=Path, help=".field file")
    info.add_argument("--json", action="store_true", help="the whole header as JSON")


def _info(options: argparse.Namespace) -> int:
    from fieldforge.apps.info import print_info

    return print_info(options.field, as_json=options.json)


def _add_view(commands: Commands) -> None:
    view = _command(commands, "view", _view, "show a picture or a field in the terminal")
    view.add_argument("file", type=Path, help=".field file or picture")
    view.add_argument("--width", type=_positive_int, metavar="COLUMNS", help="character columns")


def _view(options: argparse.Namespace) -> int:
    from fieldforge.apps.view import show_file

    return show_file(options.file, width=options.width)


def _add_doctor(commands: Commands) -> None:
    doctor = _command(commands, "doctor", _doctor, "say what this installation can do, and why not more")
    doctor.add_argument("--speed", action="store_true", help="time a training step, natively and by the reference")


def _doctor(options: argparse.Namespace) -> int:
    from fieldforge.apps import doctor
    from fieldforge.apps.doctor import speed

    return speed.main() if options.speed else doctor.main()


def _add_bench(commands: Commands) -> None:
    bench = _command(commands, "bench", _bench, "measure against plain PyTorch; rows go to data/bench")
    bench.add_argument("suite", choices=("cpu", "encodings", "image", "presets", "report"), help="what to measure")
    bench.add_argument("--data", type=Path, help="folder of pictures for the suite 'presets'")
    bench.add_argument("--rows", type=Path, default=Path("data/bench"), help="folder of the JSON lines")
    bench.add_argument("--quick", action="store_true", help="small sizes, no rows written: does it run?")
    bench.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="W1,W3",
        help="of the suite 'cpu': W1 to W5, astronaut; no rows written",
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


def _crop(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected X,Y,WIDTH,HEIGHT such as 100,50,64,64, got {text}") from None
    return x, y, width, height


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, sort_keys=True), flush=True)
