"""Files of models of weights: a generator, or a network on weights, in one safe file beside its fields.

    save_model("digits.gen", model, field=collection.config, metadata={"collection": summary_of(collection)})
    found = load_model("digits.gen", "generator", layout=collection.layout)
    found.model.sample(64)
    found.field(vector)                  # an ordinary field of such weights

The container is that of `.field` files (`container.py`): no pickle, a checksum, written whole or not at all. Any part
whose constructor takes a ``layout`` can be in it. The header holds

- ``slot``, ``config``, ``n_output_dims``: what rebuilds the model beside its layout: the kind in the registry, its
  configuration, and of networks how many numbers they give;
- ``layout``: of the vectors, and ``field``: the configuration of the fields, if they have one in common;
- ``metadata``: whatever JSON the caller gives; `summary_of` says what is worth keeping of a collection;
- ``software``: the version of fieldforge that wrote it.

Tensors that are no part of the model (a decoder trained beside it) may stand beside its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.fields import container
from fieldforge.fields.collection import Collection, layout_of
from fieldforge.fields.container import FieldFileError, Reader, Source, plain_json
from fieldforge.fields.file import UNSAVED_BYTES, build_field, skeleton_of, software
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.storage import decode, encode, fill, misfit
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import HOMES, build, find

BESIDE = "beside:"
"""What the names of tensors begin with that are no part of the model."""


class ModelFileError(FieldFileError):
    """A model cannot be used for what was asked; one sentence: the file, what was found, the way out."""


@dataclass(frozen=True)
class ModelHeader:
    """What a file says of its model, read without building it.

    Attributes:
        path: the file.
        n_bytes: its size.
        slot: "generator", "weight_network", ...
        config: of the model.
        n_output_dims: numbers that a network gives; None where there is no such thing.
        layout: of the vectors.
        field_config: of the fields; None where they have none in common.
        metadata: as it was given.
        software: what wrote the file.
    """

    path: Path
    n_bytes: int
    slot: str
    config: dict[str, Any]
    n_output_dims: int | None
    layout: Layout
    field_config: dict[str, Any] | None
    metadata: dict[str, Any]
    software: dict[str, Any]

    def field(self, vector: Tensor) -> Field:
        """The field of a vector (n_parameters,).

        Raises:
            ModelFileError: the file does not say what fields these are.
            ValueError: `vector` is not of the layout, or not finite.
        """
        if self.field_config is None:
            raise ModelFileError(self.path, "does not say of which fields it holds a model; train it on a collection")
        self.layout.expect(vector, name="vector")
        if vector.ndim != 1 or not bool(torch.isfinite(vector).all()):
            n_bad = int((~torch.isfinite(vector)).sum())
            raise ValueError(f"vector: expected ({self.layout.n_parameters},) finite numbers, got "
                             f"{list(vector.shape)} with {n_bad} that are not")  # fmt: skip
        field = build_field(self.field_config)
        field.load_state_dict(self.layout.unflatten(vector.detach()))
        return field

    def expect_layout(self, layout: Layout, whose: str) -> None:
        """Require that the model is one of such vectors.

        Args:
            layout: of the fields at hand.
            whose: what to call them in the message.

        Raises:
            ModelFileError: it is of another architecture; the message names both.
        """
        if layout != self.layout:
            mine, other = said(self.layout, layout), said(layout, self.layout)
            raise ModelFileError(self.path, f"is a model of fields of {mine}, but {whose} has {other}; "
                                            "train a model on that architecture")  # fmt: skip


@dataclass(frozen=True)
class ModelFile(ModelHeader):
    """A model that was read, and what its file says of it.

    Attributes:
        model: in evaluation mode, on torch's default device.
        beside: the tensors that stood beside it, by name.
    """

    model: Any
    beside: dict[str, Tensor]


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    slot: str = "generator",
    field: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    beside: Mapping[str, Tensor] | None = None,
) -> int:
    """Write a model; the file that was there is replaced in one step or not touched at all.

    Args:
        path: the file; its folder exists.
        model: a registered part with `layout` and `config()`, on any device.
        slot: the registry's kind that it is of.
        field: the configuration that its fields share (`Collection.config`), so that vectors can become fields.
        metadata: JSON values with text keys and finite numbers.
        beside: other tensors to keep, by name.

    Returns:
        The size of the file in bytes. The same model and metadata give the same bytes.

    Raises:
        TypeError, ValueError: such a part cannot be in a file, its numbers are not finite, its configuration does not
            rebuild it, or the fields have another layout; nothing is written.
        FieldFileError: the file system refused.
    """
    layout: Layout = model.layout  # type: ignore[assignment]
    config = plain_json(model.config(), "config")  # type: ignore[operator]
    n_output_dims = getattr(model, "n_output_dims", None)
    body = {
        "slot": slot,
        "config": config,
        "n_output_dims": n_output_dims,
        "layout": layout.pairs(),
        "field": None if field is None else plain_json(field, "field"),
        "metadata": plain_json(metadata or {}, "metadata"),
        "software": software(),
    }
    sources = encode(model, None)
    stored = {name: (container.name_of(source.dtype), source.shape) for name, source in sources.items()}
    problem = misfit(stored, _skeleton(slot, config, layout, n_output_dims, stored).state_dict())
    if problem:  # better now than when somebody needs the file
        raise ValueError(f"model: {type(model).__name__}.config() does not rebuild it: {problem}")
    if field is not None and layout_of(skeleton_of(field)) != layout:
        raise ValueError(f"field: expected the configuration of fields of {said(layout)}")
    for name, tensor in (beside or {}).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"beside: {name}: holds numbers that are not finite")
        sources[f"{BESIDE}{name}"] = Source.of(tensor.detach())
    return container.write(path, "model", body, sources)


def load_model(
    path: str | os.PathLike[str],
    slot: str = "generator",
    *,
    layout: Layout | None = None,
    whose: str = "the collection",
) -> ModelFile:
    """Read a model.

    The file may come from anywhere. Before memory is taken for parameters, the checksum is verified, the configuration
    is built without memory (on torch's meta device), and every name, shape and type it asks for is found in the file.
    Nothing is executed, and torch's random state is left as it was.

    Args:
        path: the file.
        slot: the registry's kind that is wanted.
        layout: of the fields at hand, if it has to be a model of such.
        whose: what to call these in a message.

    Raises:
        FieldFileError: not a model, damaged, newer than this version, or not what its configuration describes.
        ModelFileError: a model of another kind, or of another architecture.
    """
    with Reader(path) as reader:
        header = _header(reader)
        if header.slot != slot:
            raise ModelFileError(path, f"holds a {_words(header.slot)}, not a {_words(slot)}")
        if layout is not None:
            header.expect_layout(layout, whose)
        reader.verify()
        try:
            own = {n: (i.dtype, i.shape) for n, i in reader.tensors.items() if not n.startswith(BESIDE)}
            arguments = header.slot, header.config, header.layout, header.n_output_dims, own
            skeleton = _skeleton(*arguments)
            _expect_few_tables(skeleton)
            asked = skeleton.state_dict()
            problem = misfit(own, asked)
            if problem:
                raise ValueError(f"it does not hold what its configuration describes: {problem}")
            if header.field_config is not None:
                field = skeleton_of(header.field_config)
                _expect_few_tables(field)
                if layout_of(field) != header.layout:
                    raise ValueError("its fields have another layout than its vectors")
            with torch.random.fork_rng(devices=[]):
                model = _build(*arguments)
            if any(own[name][0] == "F64" and asked[name].dtype == torch.float32 for name in asked):
                model = model.double()
            for name, tensor in model.state_dict().items():
                fill(tensor, decode(reader.pieces(name), None))
            names = [name for name in reader.tensors if name.startswith(BESIDE)]
            beside = {name.removeprefix(BESIDE): reader.tensor(name) for name in names}
        except FieldFileError:
            raise
        except Exception as error:  # what a file asks for may fail in any way a constructor can
            raise FieldFileError(path, f"cannot be loaded: {error or type(error).__name__}") from error
        return ModelFile(**vars(header), model=model.eval().requires_grad_(False), beside=beside)


def read_model_header(path: str | os.PathLike[str]) -> ModelHeader:
    """What a file says of its model. Its tensors and its checksum are not looked at: `load_model` does that.

    Raises:
        FieldFileError: not a model, cut short, or newer than this version.
    """
    with Reader(path) as reader:
        return _header(reader)


def summary_of(collection: Collection) -> dict[str, Any]:
    """What a model should remember of the collection it was trained on: which it was, and how its fields began."""
    body = collection.body
    return {
        "name": collection.path.resolve().name,
        "kind": body.get("kind"),
        "identity": body.get("identity"),
        "init": body["init"],
        "quality": body["quality"],
        "n_fields": len(collection),
    }


def said(layout: Layout, beside: Layout | None = None) -> str:
    """'205 numbers (network.layers.0.weight [12, 2], ...)'; of two layouts, from where they begin to differ."""
    pairs = layout.tensors
    first = 0
    if beside is not None:
        first = next((i for i, (a, b) in enumerate(zip(pairs, beside.tensors, strict=False)) if a != b), 0)
    shown = [f"{name} {list(shape)}" for name, shape in pairs[first : first + 2]]
    dots = ["..."] if first + 2 < len(pairs) else []
    return f"{layout.n_parameters:,} numbers ({', '.join(shown + dots)})"


def _header(reader: Reader) -> ModelHeader:
    body = reader.body
    if reader.kind != "model":
        raise FieldFileError(reader.path, f"is a {reader.kind}, not a model of weights")
    for key in ("config", "metadata", "software"):
        if not isinstance(body.get(key), dict):
            raise FieldFileError(reader.path, f"has no table {key} in its header; it is damaged")
    slot, size, field = body.get("slot"), body.get("n_output_dims"), body.get("field")
    if not isinstance(slot, str) or not isinstance(field, (dict, type(None))):
        raise FieldFileError(reader.path, "does not say of what it is a model; its header is damaged")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**24):
        raise FieldFileError(reader.path, "does not say how many numbers its network gives; its header is damaged")
    try:
        layout = Layout.from_json(body.get("layout") or [])
    except ValueError as error:
        raise FieldFileError(reader.path, f"has no layout in its header that can be used ({error})") from error
    return ModelHeader(
        reader.path, reader.n_bytes, slot, body["config"], size, layout, field, body["metadata"], body["software"]
    )


def _build(
    slot: str,
    config: Mapping[str, Any],
    layout: Layout,
    n_output_dims: int | None,
    stored: Mapping[str, tuple[str, tuple[int, ...]]],
) -> nn.Module:
    """The model with whatever numbers, its state of the shapes that are stored where it may have any."""
    if slot not in HOMES or "layout" not in inspect.signature(find(slot, str(config.get("otype"))).factory).parameters:
        raise ValueError(f"slot: a {_words(slot)} is no model of weights")
    model = build(slot, config, layout=layout, n_output_dims=n_output_dims, generator=torch.Generator("cpu"))
    if not isinstance(model, nn.Module):
        raise TypeError(f"otype: expected a module, got {type(model).__name__}")
    make_room = getattr(model, "make_room", None)
    if make_room is not None:
        make_room({name: shape for name, (_, shape) in stored.items()})
    return model


def _expect_few_tables(skeleton: nn.Module) -> None:
    """Refuse a configuration that asks for much memory beside what its file holds."""
    asked = skeleton.state_dict()
    unsaved = sum(buffer.nbytes for name, buffer in skeleton.named_buffers() if name not in asked)
    if unsaved > UNSAVED_BYTES:
        raise ValueError(f"it asks for tables of {unsaved} bytes beside its parameters")


def _skeleton(*arguments: Any) -> nn.Module:
    """The model without memory: names, shapes and types only."""
    with torch.device("meta"):
        return _build(*arguments)


def _words(slot: str) -> str:
    return {"generator": "generator of weights", "weight_network": "network on weights"}.get(slot, slot)
