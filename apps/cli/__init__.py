"""The command line: what can be asked, in which words, and how errors are said.

Each command imports its room when it runs, so that ``--help`` is quick. A user's mistake is one sentence on standard
error: exit code 2 for usage (options, configuration), 1 for data (files that cannot be read or written). ``--debug``
shows the traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fieldforge.apps.cli import collections, comparing, converting, fitting, seeing, telling, weights, weightspace
from fieldforge.apps.cli.words import Parser


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="fieldforge", description="Fit, see and convert neural fields.")
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        fitting.add_fit,
        converting.add_convert,
        seeing.add_render,
        seeing.add_mesh,
        seeing.add_export,
        seeing.add_import,
        telling.add_evaluate,
        telling.add_info,
        telling.add_list,
        seeing.add_view,
        comparing.add_compare,
        collections.add_collection,
        weightspace.add_generate,
        weights.add_weights,
        telling.add_doctor,
        telling.add_bench,
    ):
        add(commands)
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
    options.words = arguments
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


def _exit_code(error: BaseException) -> int:
    """1 for what files hold and what the machine lacks, 2 for what was asked for."""
    from fieldforge.apps.images import ImageError
    from fieldforge.apps.media import MediaError
    from fieldforge.apps.scenes.scene import SceneError
    from fieldforge.apps.shapes.read import ShapeError
    from fieldforge.backends import BackendError
    from fieldforge.fields.file import FieldFileError

    is_usage = isinstance(error, (ValueError, BackendError)) and not isinstance(
        error, (ImageError, MediaError, SceneError, ShapeError, FieldFileError)
    )
    return 2 if is_usage else 1


def _say(sentence: str, code: int) -> int:
    print(f"fieldforge: {' '.join(sentence.split())}", file=sys.stderr)
    return code
