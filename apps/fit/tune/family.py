"""``--encoding auto``: a family of encoding and network, its setting tuned, for a signal.

The rule is ours. Within a family of coordinate networks `tune` sets the frequencies by spectra (FreSh; Kania et al.,
ICLR 2025); a grid keeps what its preset says. Between families the distances say how near each begins, not how well it
learns, and neither do the first steps of a long training, in which networks of coordinates lead
(`data/studies/methods.md`). So each family makes a short training of its own, its schedule squeezed into it, and the
best at the end of these is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.tune.cells import fitted_for
from fieldforge.apps.fit.tune.fresh import Tuned, tune
from fieldforge.backends import use_backend
from fieldforge.checks import with_article
from fieldforge.devices import move, working_on
from fieldforge.registry import ConfigError

if TYPE_CHECKING:
    from fieldforge.apps.fit.job import Job, Plan

PILOT = 0.03
"""Steps of a family's short training, of those of the shortest whole one."""
FEWEST = 60
"""Steps at least: with 20, which family leads is chance."""
CPU = torch.device("cpu")


def choose_family(
    job: Job[Any], plan: Plan, device: torch.device, tell: Callable[[str], None]
) -> tuple[Config, list[str], dict[str, Any]]:
    """The configuration of the family that learns a signal best in a short training.

    Args:
        job: the signal, with `families`.
        plan: what is asked for; the preset counts where it is of the family of grids.
        device: where the short trainings go on; spectra are compared on the CPU.
        tell: told what is being compared.

    Returns:
        The configuration, notices, and a record for the header of the file.

    Raises:
        ConfigError: such a signal has no families, or the plan names an encoding or a network already.
    """
    presets = job.families()
    if not presets:
        raise ConfigError(
            f"encoding: auto has no families to choose from for {with_article(job.signal)}; --tune fresh may do"
        )
    _expect_free(plan)
    made: dict[str, Config] = {}
    notices: list[str] = []
    tuned: dict[str, Tuned] = {}
    for family, preset in presets.items():
        if family == "grid" and "Grid" in str(job.preset(plan.preset).get("encoding", {}).get("otype", "")):
            preset = plan.preset
        made[family], said = job.layered(plan, preset)
        notices += [one for one in said if one not in notices]
    n_steps = max(FEWEST, round(PILOT * min(config["fit"]["n_steps"] for config in made.values())))
    quality: dict[str, float] = {}
    with use_backend(plan.backend):
        for family, config in made.items():
            if family != "grid":
                tuned[family] = tune(job.make_field, config, job.slices, job.full_side, seed=plan.seed)
                made[family] = tuned[family].config
            tell(f"auto: {n_steps} steps of {family}, {len(quality) + 1} of {len(made)}")
            quality[family] = pilot(job, made[family], plan.seed, n_steps, device)
    best = max(quality, key=lambda family: quality[family])
    listed = ", ".join(f"{family} {value:.2f}" for family, value in quality.items())
    setting = f" with {tuned[best].setting.name} {tuned[best].value:g}" if best in tuned else ""
    notices.append(f"auto: {best}{setting}, best of {len(quality)} after {n_steps} steps ({job.target}: {listed})")
    record: dict[str, Any] = {"method": "auto", "chosen": best, "n_steps": n_steps, "compared": job.target}
    record["families"] = {
        family: {"quality": round(value, 4)} | ({"fresh": tuned[family].record()} if family in tuned else {})
        for family, value in quality.items()
    }
    return made[best], notices, record


def pilot(job: Job[Any], config: Config, seed: int, n_steps: int, device: torch.device = CPU) -> float:
    """The figure of a field after a training of so many steps, from few samples; -inf where it diverges."""
    short = config | {"fit": config["fit"] | {"n_steps": n_steps}}
    made = job.make_field(short, seed)  # on the CPU, so that a seed means the same everywhere
    with working_on(device):
        field = fitted_for(job, move(made, device), short, seed, n_steps)
        with torch.no_grad():
            quality = job.quality(field, math.inf)
    return quality if math.isfinite(quality) else -math.inf


def _expect_free(plan: Plan) -> None:
    given = plan.config if isinstance(plan.config, Mapping) else {}
    named = [key for key in given if key in ("encoding", "network")]
    named += [one for one in plan.overrides if one.strip().startswith(("encoding", "network"))]
    if plan.config is not None and not isinstance(plan.config, Mapping):
        named.append(str(plan.config))
    if named:
        raise ConfigError(f"encoding: auto chooses encoding and network; leave out {named[0]!r}, or auto")
