"""``fieldforge fit collection``."""

from __future__ import annotations

import argparse
import signal
import sys

import tomli_w

from fieldforge.apps.cli.words import print_json
from fieldforge.apps.fit.collection.job import CollectionJob
from fieldforge.apps.fit.collection.plan import CollectionFit, CollectionPlan
from fieldforge.apps.fit.collection.progress import said
from fieldforge.apps.fit.ranks import OnRanks, joined, serve


def fit_collection_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0 done, 130 interrupted (what is finished stays)."""
    plan = CollectionPlan(
        output=options.output, kind=options.kind, init=options.init, inits_per_item=options.inits_per_item,
        preset=options.preset, config=options.config, overrides=options.overrides, steps=options.steps,
        seconds=options.seconds, seed=options.seed, backend=options.backend, limit=options.limit, white=options.white,
        skip_bad=options.skip_bad, device=options.device, refit_below=options.refit_below, resume=options.resume,
        restart=options.restart, executor=options.executor, workers=options.workers, address=options.address,
        progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    job = CollectionJob(options.source, plan)
    if options.print_config:
        print(tomli_w.dumps(job.config), end="")
        return 0
    with joined() as ranks:
        if not ranks.is_first:
            return serve()
        if ranks.n > 1:
            job.share(others := OnRanks(ranks))
        try:
            result = job.run()
        finally:
            if ranks.n > 1:
                others.close()
    if options.json:
        print_json({"event": "result", "output": str(result.path), "parameters": job.n_parameters,
                    "stopped_by": result.stopped_by, "worst_fields": result.worst, **result.summary()})  # fmt: skip
    elif not options.quiet:
        print(describe(result, job.n_parameters))
    if result.stopped_by:
        why = {"signal": "stopped", "seconds": "the time is over"}[result.stopped_by]
        if not options.quiet:
            print(f"{why}: {result.n_fields} of {result.n_total} fields are in {result.path}; "
                  "repeat the command with --resume to go on", file=sys.stderr)  # fmt: skip
    return 128 + signal.SIGINT if result.stopped_by == "signal" else 0


def describe(result: CollectionFit, n_parameters: int) -> str:
    """What is printed at the end."""
    figures = result.summary()
    lines = [f"{result.path}: {result.n_fields} fields of {n_parameters:,} parameters, {result.seconds:.1f} s"]
    if f"{result.figure}_mean" in figures:
        lines.append("  ".join(
            f"{name} {said(result.figure, figures[f'{result.figure}_{name}'])}" for name in ("mean", "median", "worst")
        ))  # fmt: skip
        lines.append(f"worst: {'; '.join(result.worst)}")
    if figures["not_finite"]:
        lines.append(f"{figures['not_finite']} fields are not finite; --resume --refit-below fits them again")
    return "\n".join(lines)
