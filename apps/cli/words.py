"""What all commands are made of: the parser, and options that several share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fieldforge.apps.cli import values


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of what has one; of switches and of what is left out, the text says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_none = action.default is None or action.default is False or action.default in ("", (), [])
        return action.help if has_none or "default" in (action.help or "") else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with the nearest option named in errors, and no guessing from prefixes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        from fieldforge.checks import did_you_mean

        known = [option for action in self._actions for option in action.option_strings]
        words = [word for word in message.split() if word.startswith("--")]
        hint = did_you_mean(words[0].split("=")[0], known) if message.startswith("unrecognized") and words else ""
        print(f"fieldforge: {message}{hint}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class UsageError(ValueError):
    """Options that do not go together, or an output that cannot be written."""


Commands = Any  # argparse's subparsers action has no public name


def add_command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
    command: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run, parser=command)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def add_configuration(command: Parser) -> None:
    """Over a preset."""
    command.add_argument(
        "--config",
        type=Path,
        help="run file (TOML) or tiny-cuda-nn network file (JSON) over the preset; default: the preset alone",
    )
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change one key, e.g. encoding.n_levels=12; may be repeated",
    )  # fmt: skip


def add_tuning(command: Parser) -> None:
    """What is chosen by looking at the signal."""
    command.add_argument(
        "--tune", choices=("none", "fresh", "cells"), default="none",
        help="fresh: before training, choose what sets the frequencies (first omega of sines, FINER's bias scale, "
        "sigma of RandomFourier) by the signal's spectrum (Kania et al. 2025), where the preset has such a setting; "
        "cells: of --preset kilonerf, put its small networks where the error is",
    )  # fmt: skip
    command.add_argument(
        "--encoding", choices=("auto",),
        help="auto: the family too, by short trainings of SIREN, Fourier features, FINER and hash grid; default: that "
        "of the preset",
    )  # fmt: skip


def add_diagnostics(command: Parser) -> None:
    """What is watched while a fit goes on."""
    command.add_argument(
        "--diagnose", type=values.names, default=(), metavar="NAME,...",
        help="keep rows of spectrum, ntk, mean_frequency, lempel_ziv, polynomial_order, activation_patterns, "
        "gradient_confusion, spectral_norms, dead_units beside the output (JSON lines); training stays the same bits",
    )  # fmt: skip
    command.add_argument(
        "--diagnose-every", type=values.positive_int, metavar="K", help="steps between rows; default: 1/16 of the fit"
    )


def add_manner(command: Parser) -> None:
    """How any fit is done, and how it speaks."""
    command.add_argument("--seed", type=int, default=0, help="same seed, same bits")
    command.add_argument(
        "--backend", type=values.backend, default="auto", help="what computes: auto, reference, cpu or cuda"
    )
    add_again(command, "fit")
    add_voice(command)


def add_device(command: Parser) -> None:
    """Where it is computed."""
    command.add_argument(
        "--device", type=values.device, default="auto",
        help="where: auto (a CUDA device if there is one), cpu, cuda or cuda:N",
    )  # fmt: skip


def add_again(command: Parser, what: str) -> None:
    """Going on with what was interrupted, a fit or a training, and what would be run."""
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=f"continue an interrupted {what}")
    again.add_argument("--restart", action="store_true", help=f"discard an interrupted {what} and start anew")
    command.add_argument("--print-config", action="store_true", help="print the run file that would be used and stop")


def add_voice(command: Parser) -> None:
    """How a command speaks."""
    speak = command.add_mutually_exclusive_group()
    speak.add_argument("--quiet", action="store_true", help="say nothing but errors")
    speak.add_argument("--json", action="store_true", help="progress and result as JSON lines on standard output")


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, sort_keys=True), flush=True)
