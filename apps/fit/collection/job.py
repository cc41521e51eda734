"""Fit a collection: items in, a folder of fields out.

    from fieldforge import fit_collection
    fields = fit_collection("digits.npz", "fields/", init="random", inits_per_item=4)

The fields of item 0 come first, one for each initialisation, then those of item 1, and so on, cut into shards. A shard
is written when all its fields are fitted, and a fit that is stopped, or killed, goes on with those that are missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.collection.executors import Executor, executor_of
from fieldforge.apps.fit.collection.items import Item, ItemError, leave_out_bad, open_items
from fieldforge.apps.fit.collection.options import CollectionOptions
from fieldforge.apps.fit.collection.plan import POLICIES, CollectionFit, CollectionPlan
from fieldforge.apps.fit.collection.presets import KINDS, preset
from fieldforge.apps.fit.collection.progress import Count, Teller, said
from fieldforge.apps.fit.collection.steps import adam_of, initial_row, loss_of, seed_of, stackable
from fieldforge.apps.fit.collection.work import Outcome, Seat, Task, fit_task, own_of
from fieldforge.apps.fit.loop import orderly_stop
from fieldforge.apps.fit.ranks import device_name
from fieldforge.apps.fit.recipe import Config, layered
from fieldforge.apps.images import ImageError
from fieldforge.apps.shapes.read import ShapeError
from fieldforge.checks import expect_choice, expect_int
from fieldforge.devices import find_device
from fieldforge.fields.collection import INDEX, START, Collection, CollectionError, layout_of
from fieldforge.fields.container import FieldFileError
from fieldforge.fields.file import skeleton_of
from fieldforge.fields.shards import Shard, read_shard, shard_path, write_index, write_shard, write_start
from fieldforge.fields.weightspace.layout import Layout

N_WORST = 5


def fit_collection(source: str | Path, output: str | Path, **plan: Any) -> Collection:
    """Fit a field to each item of a source and open the collection.

    Args:
        source: NPZ file of ``images``, folder of pictures or meshes, or zip archive of meshes.
        output: folder to write.
        plan: see `CollectionPlan`.

    Raises:
        ValueError: items that cannot be used, or a configuration that cannot.
        FieldFileError: the folder cannot be written, or holds something else.
    """
    job = CollectionJob(source, CollectionPlan(Path(output), **plan))
    job.run()
    return Collection(output, allow_incomplete=True)


class CollectionJob:
    """A fit, made ready; `run` does it.

    Attributes:
        config: the run configuration, complete.
        notices: what the user should know of it.
        n_parameters: of each field.
        device: where fields are fitted: "auto", "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, source: str | Path, plan: CollectionPlan) -> None:
        expect_choice("init", plan.init, POLICIES)
        expect_int("inits_per_item", plan.inits_per_item, 1, 10_000)
        expect_int("seed", plan.seed, 0, 2**31 - 1)
        self._executor: Executor = (
            executor_of(plan.executor, plan.workers, plan.address) if isinstance(plan.executor, str) else plan.executor
        )
        self.device = _device_of(plan)
        kind = plan.kind and expect_choice("kind", plan.kind, ("shape", *KINDS))
        self.plan = plan
        self.items = open_items(source, None if kind is None else "image" if kind == "image" else "shape",
                                white=plan.white)  # fmt: skip
        if plan.skip_bad:
            leave_out_bad(self.items)
        else:
            self.items.expect_all()
        if plan.limit is not None:
            if expect_int("limit", plan.limit, 1) > len(self.items):
                raise ItemError(
                    f"{self.items.source}: has {len(self.items)} items, fewer than the {plan.limit} asked for"
                )
            self.items.keep(range(plan.limit))
        self.kind = kind if kind not in (None, "shape") else "image" if self.items.kind == "image" else "occupancy"
        assert self.kind is not None
        self.figure = "psnr" if self.kind == "image" else "iou"
        self.config, self.notices = layered(self._ground(), plan.config, plan.overrides, plan.steps, CollectionOptions)
        self.field = self._field_config(self.config)
        skeleton = skeleton_of(self.field)
        self._network, self._encoding = stackable(skeleton), skeleton.encoding
        self.layout: Layout = layout_of(skeleton)
        self.n_parameters = sum(p.numel() for p in skeleton.parameters())
        adam_of(self.config["optimizer"]), loss_of(self.config["loss"])

    def _ground(self) -> Config:
        """The preset, with so many fields in a file that their items take some 256 MiB at most."""
        found = preset(self.plan.preset, self.kind)
        numbers = max(1, math.prod(self.items.size))
        found["fit"]["n_in_shard"] = min(256, max(8, 2**26 // numbers))
        return found

    @property
    def n_fields(self) -> int:
        """Of the whole collection."""
        return len(self.items) * self.plan.inits_per_item

    def share(self, executor: Executor) -> None:
        """Let another do the work."""
        self._executor = executor

    def run(self, teller: Teller | None = None) -> CollectionFit:
        """Fit what is not there yet, write it, say how good it is.

        Raises:
            FieldFileError, ItemError, ShapeError: see `fit_collection`.
        """
        begun = time.perf_counter()
        with teller or Teller(self.plan.progress) as speaker, orderly_stop() as is_interrupted:
            for notice in (*self.notices, *self.items.notes):
                speaker.say(notice)
            self._identity = self._identify()
            folder = self._prepare()
            shards = self._finished(folder, speaker)
            late = math.inf if self.plan.seconds is None else begun + self.plan.seconds

            def should_stop() -> bool:
                return is_interrupted() or time.perf_counter() >= late

            self._write_index(folder, shards)
            try:
                start = self._start(folder, should_stop)
                if start is not False:
                    self._fit_rest(folder, shards, start, should_stop, speaker)
                if len(shards) == self._n_shards and self.plan.refit_below is not None and start is not False:
                    self._refit(folder, shards, start, should_stop, speaker)
            finally:
                done = self._write_index(folder, shards)
            if n_lost := getattr(self._executor, "n_lost", 0):
                speaker.say(f"{n_lost} times a worker was lost; others fitted what it had")
            qualities = [quality for shard in done for quality in shard.columns["quality"]]
            stopped_by = "signal" if is_interrupted() else "seconds" if time.perf_counter() >= late else ""
            is_done = len(shards) == self._n_shards and self.plan.refit_below is None
            return CollectionFit(
                folder, len(qualities), self.n_fields, "" if is_done else stopped_by, qualities, self.figure,
                self._worst(done), time.perf_counter() - begun,
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ what it is

    def _field_config(self, config: Config) -> Config:
        whole: Config = {"otype": KINDS[self.kind], "encoding": config["encoding"], "network": config["network"]}
        if self.kind == "image":
            height, width, n_channels = self.items.size
            half = [0.5] * n_channels  # the network speaks in [-1, 1]
            whole |= {"width": width, "height": height, "n_channels": n_channels}
            whole |= {"output_scale": half, "output_offset": half}
        return skeleton_of(whole).config()

    def _identify(self) -> str:
        """What every bit of the fields depends on, the machine aside."""
        parts = [self.field, self.config, self.plan.init, self.plan.inits_per_item, self.plan.seed]
        text = json.dumps([*parts, self.items.fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _body(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "kind": self.kind,
            "field": self.field,
            "layout": self.layout.pairs(),
            "init": {"policy": plan.init, "seed": plan.seed, "inits_per_item": plan.inits_per_item},
            "quality": self.figure,
            "n_fields": self.n_fields,
            "run": {name: self.config[name] for name in ("loss", "optimizer", "schedule", "fit")},
            "source": {"name": Path(self.items.source).name, "items": len(self.items)},
            "identity": self._identity,
        }

    # ------------------------------------------------------------------------------------------------ the folder

    def _prepare(self) -> Path:
        """The folder, made if need be; what is in it agrees with what was asked.

        Raises:
            FieldFileError: it holds something else.
        """
        folder = self.plan.output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = {path.name for path in folder.iterdir()}
        except OSError as error:
            raise FieldFileError(folder, f"cannot be a folder of fields ({error.strerror or error})") from error
        ours = {name for name in there if name in (INDEX, START) or name.startswith("shard-")}
        if there - ours - {name for name in there if name.endswith(".tmp")} and not ours:
            raise FieldFileError(folder, "holds other things; name a new folder, or an empty one")
        if self.plan.restart:
            for name in ours:
                (folder / name).unlink()
        elif ours and not self.plan.resume:
            raise FieldFileError(folder, "holds a collection; --resume goes on with it, --restart discards it")
        return folder

    def _finished(self, folder: Path, speaker: Teller) -> dict[int, Shard]:
        """Shards that are whole; a damaged one is fitted anew."""
        found = {}
        for number in range(self._n_shards):
            path = shard_path(folder, number)
            if not path.exists():
                continue
            try:
                whole = read_shard(path, self._identity, len(self._seats_of(number)), self.layout)
            except CollectionError:
                raise
            except FieldFileError as error:
                speaker.say(f"{error}; its fields are fitted anew")
            else:
                found[number] = Shard(path, torch.empty(0), whole.columns, whole.begins_at)
        return found

    @property
    def _n_in_shard(self) -> int:
        return int(self.config["fit"]["n_in_shard"])

    @property
    def _n_shards(self) -> int:
        return -(-self.n_fields // self._n_in_shard)

    def _seats_of(self, shard: int) -> list[tuple[int, int]]:
        """(item, init) of each field of a shard."""
        last = min(self.n_fields, (shard + 1) * self._n_in_shard)
        return [divmod(place, self.plan.inits_per_item) for place in range(shard * self._n_in_shard, last)]

    # ------------------------------------------------------------------------------------------------ the work

    def _start(self, folder: Path, should_stop: Callable[[], bool]) -> Tensor | bool | None:
        """What all fields begin with, (K, P); None: each with its own; False: stopped before it was known."""
        plan = self.plan
        if plan.init == "random":
            return None
        seeds = [seed_of(plan.seed, "", init) for init in range(plan.inits_per_item)]
        start = torch.stack([initial_row(self._network, seed, self._encoding) for seed in seeds])
        if plan.init == "first":
            seats = [Seat(0, init, seed) for init, seed in enumerate(seeds)]
            run = {name: self.config[name] for name in ("loss", "optimizer", "schedule", "fit")}
            (item,) = self._read([0])
            task = Task(0, self.field, run, [item], seats, start, plan.seed, 0, plan.backend, device_name(self.device))
            outcome = fit_task(task, should_stop=should_stop)
            if outcome is None:
                return False
            start = outcome.rows
        write_start(folder, start, self._identity)
        return start

    def _task(self, number: int, start: Tensor | None, places: Sequence[int] | None = None, attempt: int = 0) -> Task:
        """The fit of a shard, or of some places in it."""
        chosen = self._seats_of(number)
        chosen = chosen if places is None else [chosen[place] for place in places]
        wanted = sorted({item for item, _ in chosen})
        seats = [
            Seat(wanted.index(item), init, self._seed(item, init, attempt if start is None else 0))
            for item, init in chosen
        ]
        run = {name: self.config[name] for name in ("loss", "optimizer", "schedule", "fit")}
        return Task(
            number, self.field, run, self._read(wanted), seats, start, self.plan.seed, attempt, self.plan.backend,
            self.device,
        )  # fmt: skip

    def _read(self, numbers: Sequence[int]) -> list[Item]:
        try:
            return self.items.read(numbers)
        except (ImageError, ShapeError) as error:
            raise ItemError(f"{error}; --skip-bad --restart begins anew without such items") from error

    def _seed(self, item: int, init: int, attempt: int) -> int:
        name = self.items.names[item] if self.plan.init == "random" else ""
        return seed_of(self.plan.seed, name, init, attempt)

    def _fit_rest(
        self, folder: Path, shards: dict[int, Shard], start: Any, should_stop: Callable[[], bool], speaker: Teller
    ) -> None:
        begun, n_before = time.perf_counter(), sum(len(self._seats_of(number)) for number in shards)
        n_done, finite = n_before, list[float]()

        def observe(qualities: list[float]) -> None:
            nonlocal n_done
            n_done += len(qualities)
            finite.extend(quality for quality in qualities if not math.isnan(quality))
            mean = sum(finite) / len(finite) if finite else math.nan
            count = Count(n_done, self.n_fields, n_before, time.perf_counter() - begun, mean, self.figure)
            speaker.count(count, is_last=n_done == self.n_fields)

        missing = [number for number in range(self._n_shards) if number not in shards]
        tasks: Iterator[Task] = (self._task(number, start) for number in missing)
        for outcome in self._executor.run(tasks, observe, should_stop):
            number = outcome.task.number
            shards[number] = self._write(folder, outcome.task, outcome.rows, self._columns(outcome))

    def _columns(self, outcome: Outcome) -> dict[str, list[Any]]:
        """What the index says of the fields of a whole shard."""
        task, pairs = outcome.task, self._seats_of(outcome.task.number)
        names = [self.items.names[item] for item, _ in pairs]
        things = [task.items[seat.item] for seat in task.seats]
        return {
            "name": names,
            "item": [item for item, _ in pairs],
            "init": [init for _, init in pairs],
            "init_seed": [seat.init_seed for seat in task.seats],
            "attempt": [task.attempt] * len(pairs),
            "label": [self.items.labels[item] for item, _ in pairs],
            "quality": [_rounded(quality) for quality in outcome.qualities],
            "source_sha256": [thing.sha256 for thing in things],
            "split": [seed_of(0, name, 0) / 2**48 for name in names],
            "own": [own_of(thing) for thing in things],
        }

    def _write(self, folder: Path, task: Task, rows: Tensor, columns: dict[str, list[Any]]) -> Shard:
        path = shard_path(folder, task.number)
        write_shard(path, rows, columns, self._identity)
        whole = read_shard(path, self._identity, len(rows), self.layout)
        return Shard(path, torch.empty(0), whole.columns, whole.begins_at)

    def _refit(
        self, folder: Path, shards: dict[int, Shard], start: Any, should_stop: Callable[[], bool], speaker: Teller
    ) -> None:
        """Bad fields again, with twice the steps each time, and other first numbers where each has its own; the better
        of old and new stays."""
        limit = self.plan.refit_below
        assert limit is not None
        for attempt in range(1, self.plan.refits + 1):
            bad = {number: places for number, shard in sorted(shards.items())
                   if (places := _bad_places(shard, limit, attempt))}  # fmt: skip
            n_bad = sum(map(len, bad.values()))
            if not n_bad:
                continue
            speaker.say(f"below {said(self.figure, limit)}: {n_bad}; fitted again, {2**attempt} times as long")
            tasks = (self._task(number, start, places, attempt) for number, places in bad.items())
            n_better = 0
            for outcome in self._executor.run(tasks, lambda qualities: None, should_stop):
                number = outcome.task.number
                n_better += self._keep_better(folder, shards, bad[number], outcome)
            speaker.say(f"better now: {n_better} of {n_bad}")

    def _keep_better(self, folder: Path, shards: dict[int, Shard], places: Sequence[int], outcome: Outcome) -> int:
        """Write what a second attempt brought into its shard; returns how many fields it improved."""
        number, attempt, n_better = outcome.task.number, outcome.task.attempt, 0
        whole = read_shard(shards[number].path, self._identity, len(self._seats_of(number)), self.layout)
        rows, found = whole.rows, whole.columns
        for place, row, quality, seat in zip(places, outcome.rows, outcome.qualities, outcome.task.seats, strict=True):
            found["attempt"][place] = attempt
            old = found["quality"][place]
            if not math.isnan(quality) and (old is None or quality > old):
                rows[place], found["quality"][place] = row, _rounded(quality)
                found["init_seed"][place] = seat.init_seed
                n_better += 1
        shards[number] = self._write(folder, outcome.task, rows, found)
        return n_better

    def _write_index(self, folder: Path, shards: dict[int, Shard]) -> list[Shard]:
        """The index of what is finished; returns that in its order."""
        done = [shards[number] for number in sorted(shards)]
        write_index(folder, self._body(), done)
        return done

    def _worst(self, shards: Sequence[Shard]) -> list[str]:
        """The worst fields, worst first."""
        found = [
            (-math.inf if quality is None else quality, shard.columns["name"][place], shard.columns["init"][place])
            for shard in shards
            for place, quality in enumerate(shard.columns["quality"])
        ]
        return [
            f"{name}{f', initialisation {init}' if init else ''}: {said(self.figure, value)}"
            for value, name, init in sorted(found)[:N_WORST]
        ]


def _device_of(plan: CollectionPlan) -> str:
    """What is asked for, if it is there; whoever works elsewhere is asked for CPUs where nobody says.

    Raises:
        ValueError: no such device here, or one that workers of Ray do not have.
    """
    if plan.device == "auto" and (plan.backend == "cpu" or plan.executor != "local"):
        return "cpu"
    device = find_device(plan.device)
    if plan.executor == "ray" and device.type != "cpu":
        raise ValueError(
            f"device: {plan.device} was asked for, and workers of Ray compute on CPUs; leave out --device, or start "
            "torchrun with a process for each CUDA device"
        )
    return plan.device


def _bad_places(shard: Shard, limit: float, attempt: int) -> list[int]:
    """Which fields of a shard are below the limit and have not had that many attempts."""
    qualities, attempts = shard.columns["quality"], shard.columns["attempt"]
    return [
        place
        for place, quality in enumerate(qualities)
        if (quality is None or quality < limit) and attempts[place] < attempt
    ]


def _rounded(quality: float) -> float | None:
    return None if math.isnan(quality) else round(quality, 6)
