"""`fieldforge weights`: networks that read the weights of fields."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli import values
from fieldforge.apps.cli.words import (
    Commands,
    Parser,
    add_again,
    add_command,
    add_configuration,
    add_device,
    add_voice,
)

MODELS = (
    "odd-graph", "neural-graph", "graph-transformer", "nfn", "dws", "rows", "planes", "flat", "flat-augmented",
)  # fmt: skip


def add_weights(commands: Commands) -> None:
    weights = commands.add_parser("weights", help="tell what fields are from their weights, describe them, find alike")
    weights.set_defaults(parser=weights)
    ways = weights.add_subparsers(title="ways", metavar="WAY")
    _add_classify(ways)
    _add_embed(ways)
    _add_retrieve(ways)


def _add_classify(ways: Commands) -> None:
    classify = add_command(
        ways, "classify", _classify, "train a network to tell the labels of a collection's fields, or let one tell"
    )
    classify.add_argument(
        "fields", type=Path, nargs="+", help="collection with labels to train on; --with: collections, .field files"
    )  # fmt: skip
    classify.add_argument("-o", "--output", type=Path, metavar="MODEL", help="the file to write: trains")
    classify.add_argument(
        "--with", dest="model_file", type=Path, metavar="MODEL", help="a trained classifier: tells what the fields are"
    )  # fmt: skip
    classify.add_argument("--model", choices=MODELS, default="odd-graph", help="what reads the weights")
    classify.add_argument(
        "--controls", action="store_true", help="also train a plain MLP, and one on shuffled hidden units, as long"
    )
    classify.add_argument(
        "--inits", type=values.positive_int, metavar="K", help="train on the first K initialisations of each item only"
    )
    _add_training(classify, has_epochs=True)


def _add_embed(ways: Commands) -> None:
    embed = add_command(
        ways, "embed", _embed, "train an encoder of weights, from whose numbers fields can be drawn again; or use one"
    )  # fmt: skip
    embed.add_argument("fields", type=Path, help="collection to train on; with --with: to describe")
    embed.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="the model to write; with --with: the embeddings, NPZ or safetensors",
    )  # fmt: skip
    embed.add_argument(
        "--with", dest="model_file", type=Path, metavar="MODEL", help="a trained encoder: writes embeddings"
    )
    embed.add_argument(
        "--inits", type=values.positive_int, metavar="K", help="train on the first K initialisations of each item only"
    )
    _add_training(embed, has_epochs=False)


def _add_retrieve(ways: Commands) -> None:
    retrieve = add_command(ways, "retrieve", _retrieve, "the fields of a collection that are most like a field")
    retrieve.add_argument(
        "query", type=Path, help=".field file; or a collection with labels, to see how often the nearest has the same"
    )
    retrieve.add_argument("fields", type=Path, nargs="?", help="collection to look in; of a .field file")
    retrieve.add_argument(
        "--with", dest="model_file", type=Path, required=True, metavar="MODEL", help="a model of weights embed"
    )  # fmt: skip
    retrieve.add_argument("-k", type=values.positive_int, default=10, metavar="K", help="how many")
    add_device(retrieve)
    add_voice(retrieve)


def _add_training(command: Parser, *, has_epochs: bool) -> None:
    add_configuration(command)
    stop = command.add_argument_group("when to stop (default: the preset's steps)").add_mutually_exclusive_group()
    stop.add_argument("--steps", type=values.positive_int, metavar="N", help="after N steps")
    stop.add_argument("--minutes", type=values.positive, metavar="M", help="after about M minutes")
    if has_epochs:
        stop.add_argument("--epochs", type=values.positive, metavar="E", help="after seeing every field E times")
    command.add_argument("--seed", type=int, default=0, help="same seed, same bits")
    add_device(command)
    add_again(command, "training")
    add_voice(command)


def _classify(options: argparse.Namespace) -> int:
    from fieldforge.apps.weights.classify import classify_command

    return classify_command(options)


def _embed(options: argparse.Namespace) -> int:
    from fieldforge.apps.weights.embed import embed_command

    return embed_command(options)


def _retrieve(options: argparse.Namespace) -> int:
    from fieldforge.apps.weights.retrieve import retrieve_command

    return retrieve_command(options)
