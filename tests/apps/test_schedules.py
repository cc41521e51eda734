"""Schedules: where they begin, where they end, and that they are functions of the step alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fieldforge.registry import ConfigError, available, build

CONFIGS = [
    {"otype": "Constant"},
    {"otype": "Cosine", "final_factor": 0.1},
    {"otype": "Exponential", "final_factor": 0.01},
    {"otype": "ConstantThenLinear", "decay_start": 0.25, "final_factor": 0.1},
    {"otype": "Warmup", "n_warmup_steps": 10, "nested": {"otype": "Cosine", "final_factor": 0.1}},
    {"otype": "WarmupCosine", "n_warmup_steps": 10, "final_factor": 0.1},
]


def test_all_schedules_are_tested() -> None:
    assert {config["otype"] for config in CONFIGS} == set(available("schedule"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["otype"])
def test_the_end_is_the_final_factor_and_lasts(config: dict) -> None:
    schedule = build("schedule", config)
    final = (config | config.get("nested", {})).get("final_factor", 1.0)
    assert [schedule(step, 200) for step in (200, 201, 10**9)] == pytest.approx([final] * 3)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["otype"])
def test_it_never_rises_once_warm(config: dict) -> None:
    schedule = build("schedule", config)
    factors = [schedule(step, 200) for step in range(config.get("n_warmup_steps", 0), 201)]
    assert factors[0] == pytest.approx(1.0)
    assert all(earlier >= later for earlier, later in pairwise(factors))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["otype"])
def test_config_rebuilds(config: dict) -> None:
    schedule = build("schedule", config)
    assert build("schedule", schedule.config())(77, 200) == schedule(77, 200)
    assert schedule.config() == config


def test_warmup_cosine_is_warmup_around_cosine() -> None:
    short, long = build("schedule", CONFIGS[-1]), build("schedule", CONFIGS[-2])
    assert [short(step, 50) for step in range(51)] == [long(step, 50) for step in range(51)]


def test_warmup_climbs_evenly_and_loses_no_step() -> None:
    schedule = build("schedule", {"otype": "Warmup", "n_warmup_steps": 4})
    assert [schedule(step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_fit_shorter_than_its_warmup_ends_below_one() -> None:
    schedule = build("schedule", {"otype": "Warmup", "n_warmup_steps": 100})
    assert schedule(9, 10) == 0.1


def test_constant_then_linear_is_what_it_says() -> None:
    schedule = build("schedule", {"otype": "ConstantThenLinear", "decay_start": 0.5, "final_factor": 0.0})
    assert [schedule(step, 8) for step in range(9)] == [1.0] * 5 + [0.75, 0.5, 0.25, 0.0]


def test_bad_steps_and_keys_are_named() -> None:
    with pytest.raises(ValueError, match="step: expected an integer of at least 0"):
        build("schedule", "Cosine")(-1, 10)
    with pytest.raises(ValueError, match="n_steps: expected an integer of at least 1"):
        build("schedule", "Cosine")(0, 0)
    with pytest.raises(ConfigError, match=r"schedule\.nested\.final_factor: expected a finite number above 0"):
        build(
            "schedule",
            {"otype": "Warmup", "nested": {"otype": "Exponential", "final_factor": 0}},
            path="schedule",
        )
