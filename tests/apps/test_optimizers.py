"""Optimizers against float64 loops of tiny-cuda-nn's definitions; resuming, nesting, threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference.optimizers as definition
import torch

from fieldforge.apps.fit.optimizers import Optimizer, Parameters
from fieldforge.registry import ConfigError, available, build

SHAPES = [(5, 3), (4, 5), (4, 5), (12, 2), (3, 2, 2)]
"""Three matrices of a network, then two tables."""
N_MATRIX = 3
N_STEPS = 24

Config = dict[str, Any]


def start(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


def gradients(step: int) -> list[torch.Tensor]:
    """The same for every run; about half of the tables' entries are zero, as when few points fall into them."""
    generator = torch.Generator().manual_seed(100 + step)
    all_of_them = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    for table in all_of_them[N_MATRIX:]:
        table[torch.rand(table.shape, generator=generator) < 0.5] = 0.0
    return all_of_them


def make(config: Config | str, weights: list[torch.nn.Parameter]) -> Optimizer:
    parameters = Parameters(matrix=weights[:N_MATRIX], other=weights[N_MATRIX:])
    return build("optimizer", config, path="optimizer", parameters=parameters)


def advance(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for weight, gradient in zip(optimizer.parameters, gradients(step), strict=True):
            weight.grad = gradient.to(weight.dtype)
        optimizer.step()


ADAM = {"otype": "Adam", "learning_rate": 0.1, "beta2": 0.99, "l2_reg": 1e-2}
DENSE = ADAM | {"skip_zero_grad_non_matrix_params": False}
EVERYTHING = ADAM | {
    "relative_decay": 0.1,
    "absolute_decay": 0.02,
    "clipping_magnitude": 1.2,
    "gradient_clipping_magnitude": 0.7,
    "non_matrix_learning_rate_factor": 3.0,
    "non_matrix_l2_reg": 0.3,
    "epsilon": 1e-3,
}
N_NUMBERS = [math.prod(shape) for shape in SHAPES]


def adam(config: Config = ADAM, n_matrix: int = N_MATRIX) -> definition.Adam:
    return definition.Adam(n_matrix, **{key: value for key, value in config.items() if key != "otype"})


Case = tuple[Config, Callable[[], Any]]
CASES: dict[str, Case] = {
    "SGD": ({"otype": "SGD", "learning_rate": 0.1, "l2_reg": 0.1}, lambda: definition.SGD(0.1, 0.1)),
    "Adam": (ADAM, adam),
    "Adam, dense": (DENSE, lambda: adam(DENSE)),
    "Adam, every key": (EVERYTHING, lambda: adam(EVERYTHING)),
    "Adam, every key, dense": (
        EVERYTHING | {"skip_zero_grad_non_matrix_params": False},
        lambda: adam(EVERYTHING | {"skip_zero_grad_non_matrix_params": False}),
    ),
    "Adam, large epsilon": (DENSE | {"epsilon": 0.3}, lambda: adam(DENSE | {"epsilon": 0.3})),
    "Adam, no epsilon": (DENSE | {"epsilon": 0.0}, lambda: adam(DENSE | {"epsilon": 0.0})),
    "AdaBound": (ADAM | {"adabound": True}, lambda: adam(ADAM | {"adabound": True})),
    "Adam, matrices only": (
        ADAM | {"optimize_non_matrix_params": False},
        lambda: adam(ADAM | {"optimize_non_matrix_params": False}),
    ),
    "Adam, tables only": (
        ADAM | {"optimize_matrix_params": False},
        lambda: adam(ADAM | {"optimize_matrix_params": False}),
    ),
    "Novograd": (
        {"otype": "Novograd", "learning_rate": 0.1, "beta2": 0.9, "relative_decay": 0.2, "absolute_decay": 0.1},
        lambda: definition.Novograd(0.1, beta2=0.9, relative_decay=0.2, absolute_decay=0.1),
    ),
    "Shampoo": (
        {"otype": "Shampoo", "learning_rate": 0.05, "absolute_decay": 0.01},
        lambda: definition.Shampoo(N_MATRIX, learning_rate=0.05, absolute_decay=0.01),
    ),
    "Shampoo, other keys": (
        {
            "otype": "Shampoo",
            "cg_on_momentum": False,
            "frobenius_normalization": False,
            "identity": 0.2,
            "beta3": 0.5,
            "l2_reg": 0.1,
        },
        lambda: definition.Shampoo(
            N_MATRIX, cg_on_momentum=False, frobenius_normalization=False, identity=0.2, beta3=0.5, l2_reg=0.1
        ),
    ),
    "EMA": ({"otype": "EMA", "decay": 0.8, "nested": ADAM}, lambda: definition.EMA(adam(), 0.8)),
    "Average": ({"otype": "Average", "n_samples": 5, "nested": ADAM}, lambda: definition.Average(adam(), 5)),
    "Average, not full": (
        {"otype": "Average", "n_samples": 99, "nested": ADAM},
        lambda: definition.Average(adam(), 99),
    ),
    "Lookahead": (
        {"otype": "Lookahead", "alpha": 0.3, "n_steps": 4, "nested": ADAM},
        lambda: definition.Lookahead(adam(), 0.3, 4),
    ),
    "Batched": (
        {"otype": "Batched", "batch_size_multiplier": 5, "nested": ADAM},
        lambda: definition.Batched(adam(), 5),
    ),
    "ExponentialDecay": (
        {
            "otype": "ExponentialDecay",
            "decay_base": 0.5,
            "decay_start": 3,
            "decay_interval": 4,
            "decay_end": 15,
            "nested": ADAM,
        },
        lambda: definition.ExponentialDecay(adam(), 0.5, 3, 15, 4),
    ),
    "Composite": (
        {
            "otype": "Composite",
            "nested": [
                {"otype": "SGD", "learning_rate": 0.1, "n_params_to_optimize": sum(N_NUMBERS[:2])},
                {"otype": "EMA", "nested": ADAM, "n_params_to_optimize": sum(N_NUMBERS[2:])},
            ],
        },
        lambda: definition.Composite(definition.SGD(0.1), definition.EMA(adam(n_matrix=1)), 2),
    ),
    "instant-ngp": (
        {
            "otype": "Ema",
            "decay": 0.95,
            "nested": {
                "otype": "exponentialdecay",
                "decay_base": 0.33,
                "decay_start": 10,
                "decay_interval": 5,
                "nested": {"otype": "ADAM", "learning_rate": 0.1, "epsilon": 1e-15},
            },
        },
        lambda: definition.EMA(
            definition.ExponentialDecay(adam({"learning_rate": 0.1, "epsilon": 1e-15}), 0.33, 10, 10**7, 5), 0.95
        ),
    ),
    "EMA of Lookahead": (
        {"otype": "EMA", "decay": 0.8, "nested": {"otype": "Lookahead", "n_steps": 3, "nested": "SGD"}},
        lambda: definition.EMA(definition.Lookahead(definition.SGD(), n_steps=3), 0.8),
    ),
}


def each_case_but(*names: str) -> pytest.MarkDecorator:
    cases = {name: case for name, case in CASES.items() if name not in names}
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


each_case = each_case_but()


def test_every_optimizer_is_tested() -> None:
    assert {config["otype"].lower() for config, _ in CASES.values()} == {n.lower() for n in available("optimizer")}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-4)])
@each_case
def test_weights_and_averages_are_those_of_the_definition(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    config, make_reference = case
    weights, reference = start(dtype), make_reference()
    expected = [weight.detach().double().numpy().copy() for weight in weights]
    optimizer = make(config, weights)
    for step in range(N_STEPS):
        advance(optimizer, range(step, step + 1))
        reference.step(expected, [gradient.numpy() for gradient in gradients(step)])
        for weight, value in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight.detach().numpy(), value, rtol=tolerance, atol=tolerance)
        for average, value in zip(optimizer.averaged(), reference.averaged(expected), strict=True):
            np.testing.assert_allclose(average.detach().numpy(), value, rtol=tolerance, atol=tolerance)


@each_case
def test_stop_and_resume_is_the_uninterrupted_run_bit_for_bit(case: Case) -> None:
    config, _ = case
    through = start(torch.float32)
    uninterrupted = make(config, through)
    uninterrupted.set_learning_rate_factor(0.7)
    advance(uninterrupted, range(11))
    state = {name: tensor.clone() for name, tensor in uninterrupted.state_tensors().items()}
    weights = [torch.nn.Parameter(weight.detach().clone()) for weight in through]
    advance(uninterrupted, range(11, N_STEPS))

    resumed = make(config, weights)
    resumed.load_state_tensors(state)
    advance(resumed, range(11, N_STEPS))
    for weight, expected in zip(weights, through, strict=True):
        assert torch.equal(weight, expected)
    for average, expected in zip(resumed.averaged(), uninterrupted.averaged(), strict=True):
        assert torch.equal(average, expected)
    final, state = uninterrupted.state_tensors(), resumed.state_tensors()
    assert final.keys() == state.keys()
    assert all(torch.equal(final[name], state[name]) for name in final)


@each_case
def test_config_rebuilds_the_same_optimizer(case: Case) -> None:
    optimizer = make(case[0], start())
    again = make(optimizer.config(), start())
    assert again.config() == optimizer.config()
    advance(optimizer, range(5))
    advance(again, range(5))
    assert all(torch.equal(a, b) for a, b in zip(optimizer.parameters, again.parameters, strict=True))


@each_case_but("AdaBound")  # its lower bound is a rate that nothing scales, as in tiny-cuda-nn
def test_the_learning_rate_factor_reaches_the_innermost(case: Case) -> None:
    limit = case[0].get("clipping_magnitude", math.inf)  # what is out of range is brought back whatever the rate
    optimizer = make(case[0], weights := start())
    optimizer.set_learning_rate_factor(0.0)
    before = [weight.detach().clamp(-limit, limit) for weight in weights]
    advance(optimizer, range(6))
    for weight, value in zip(weights, before, strict=True):
        torch.testing.assert_close(weight.detach(), value, equal_nan=False)


@each_case_but("Batched")
def test_a_parameter_without_gradient_is_left_alone(case: Case) -> None:
    weights = start()
    optimizer = make(case[0], weights)
    for step in range(3):
        for i, (weight, gradient) in enumerate(zip(weights, gradients(step), strict=True)):
            weight.grad = None if i in (1, 4) else gradient
        optimizer.step()
    for i in (1, 4):
        torch.testing.assert_close(weights[i], start()[i])


def test_batched_counts_a_missing_gradient_as_zero() -> None:
    sgd = {"otype": "SGD", "learning_rate": 1.0, "l2_reg": 0.0}
    weight = torch.nn.Parameter(torch.zeros(1))
    config = {"otype": "Batched", "batch_size_multiplier": 2, "nested": sgd}
    optimizer = build("optimizer", config, parameters=Parameters(other=[weight]))
    for gradient in (torch.ones(1), None):
        weight.grad = gradient
        optimizer.step()
    assert weight.item() == -0.5
    assert weight.grad is None


def test_zero_grad_forgets() -> None:
    optimizer = make("SGD", weights := start())
    advance(optimizer, range(1))
    optimizer.zero_grad()
    assert [weight.grad for weight in weights] == [None] * len(weights)


def test_untouched_entries_of_a_table_keep_their_bits_and_their_age() -> None:
    """The first gradient of an entry moves it by the learning rate, no matter how late it comes."""
    table = torch.nn.Parameter(torch.zeros(3))
    optimizer = build("optimizer", {"otype": "Adam", "learning_rate": 0.5}, parameters=Parameters(other=[table]))
    for step in range(50):
        table.grad = torch.tensor([1.0, 1.0 if step == 49 else 0.0, 0.0])
        optimizer.step()
    assert table[1].item() == pytest.approx(-0.5)
    assert table[2].item() == 0.0


def test_a_nan_gradient_is_not_taken_for_zero() -> None:
    table = torch.nn.Parameter(torch.zeros(2))
    optimizer = build("optimizer", "Adam", parameters=Parameters(other=[table]))
    table.grad = torch.tensor([math.nan, 0.0])
    optimizer.step()
    assert table.isnan().tolist() == [True, False]


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("extras", [{}, {"relative_decay": 0.1, "gradient_clipping_magnitude": 0.5}])
def test_adam_gives_the_same_bits_for_any_number_of_threads(lazy: bool, extras: Config) -> None:
    config = {"otype": "EMA", "nested": {"otype": "Adam", "skip_zero_grad_non_matrix_params": lazy} | extras}
    results = []
    n_threads = torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        try:
            generator = torch.Generator().manual_seed(5)
            table = torch.nn.Parameter(torch.randn(100_003, generator=generator))
            optimizer = build("optimizer", config, parameters=Parameters(matrix=[], other=[table]))
            for _ in range(3):
                table.grad = torch.randn(100_003, generator=generator).relu()
                optimizer.step()
            results.append(torch.cat([table.detach(), *optimizer.averaged()]))
        finally:
            torch.set_num_threads(n_threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_resumed_run_survives_parameters_of_different_age() -> None:
    """A parameter that joined late has its own bias correction."""
    weights = start()
    optimizer = make(DENSE, weights)
    reference = [start()[0].detach().numpy().copy()]
    late = adam(DENSE, n_matrix=1)
    for step in range(8):
        for i, (weight, gradient) in enumerate(zip(weights, gradients(step), strict=True)):
            weight.grad = None if i == 0 and step < 4 else gradient
        optimizer.step()
        if step >= 4:
            late.step(reference, [gradients(step)[0].numpy()])
    np.testing.assert_allclose(weights[0].detach().numpy(), reference[0], rtol=1e-9)


def test_foreign_state_is_refused_and_changes_nothing() -> None:
    weights = start()
    optimizer = make({"otype": "EMA", "nested": "Adam"}, weights)
    advance(optimizer, range(3))
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    assert "nested.0.first_moment" in state
    other = make({"otype": "EMA", "nested": "Adam"}, start())
    before = {name: tensor.clone() for name, tensor in other.state_tensors().items()}
    lacking = {name: tensor for name, tensor in state.items() if name != "nested.0.first_moment"}
    wrong_shape = state | {"0.average": torch.zeros(2, 2, dtype=torch.float64)}
    for foreign, message in [
        (lacking, "nested.0.first_moment: the saved state lacks it"),
        (state | {"x": torch.zeros(())}, "x: the saved state has it"),
        (wrong_shape, r"0\.average: expected \(5, 3\) torch.float64, got \(2, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            other.load_state_tensors(foreign)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_tensors().items())


def test_before_the_first_step_the_averages_are_the_weights() -> None:
    for config, _ in CASES.values():
        optimizer = make(config, weights := start())
        assert all(torch.equal(a, w) for a, w in zip(optimizer.averaged(), weights, strict=True))


def test_training_goes_down_hill() -> None:
    """Each optimizer, with its own defaults, brings a bowl's value down."""
    for name in available("optimizer"):
        config = {"otype": name} | ({"nested": [ADAM | {"n_params_to_optimize": 6}]} if name == "Composite" else {})
        bowl = torch.nn.Parameter(torch.ones(2, 3))
        optimizer = build("optimizer", config, parameters=Parameters(matrix=[bowl]))
        for _ in range(64):
            optimizer.zero_grad()
            (bowl**2).sum().backward()
            optimizer.step()
        assert float((bowl.detach() ** 2).sum()) < 6.0, name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"otype": "Adam", "beta1": 1.0}, r"optimizer\.beta1: expected a finite number of at least 0"),
        ({"otype": "Adam", "learning_rate": math.nan}, r"optimizer\.learning_rate"),
        ({"otype": "Adam", "beta3": 0.9}, r"optimizer\.beta3: Adam has no such key; did you mean beta"),
        (
            {"otype": "EMA", "nested": {"otype": "ExponentialDecay", "nested": {"otype": "Adam", "epsilon": -1.0}}},
            r"optimizer\.nested\.nested\.epsilon: ",
        ),
        ({"otype": "EMA", "nested": {"otype": "Adamm"}}, r"optimizer\.nested\.otype: .*did you mean Adam"),
        ({"otype": "ExponentialDecay", "decay_interval": 0}, r"optimizer\.decay_interval"),
        ({"otype": "Average", "n_samples": 10**9}, r"optimizer\.n_samples: expected an integer from 1 to"),
        ({"otype": "Composite"}, r"optimizer\.nested: Composite needs this key"),
        ({"otype": "Composite", "nested": []}, r"optimizer\.nested: expected at least one"),
        (
            {"otype": "Composite", "nested": [{"otype": "SGD", "n_params_to_optimize": 20}]},
            r"optimizer\.nested\[0\]\.n_params_to_optimize: cannot give 20 numbers, its last parameter ends at 35",
        ),
        (
            {"otype": "Composite", "nested": [{"otype": "SGD", "n_params_to_optimize": 15}]},
            r"optimizer\.nested: 76 of the numbers to optimize are in no share",
        ),
        (
            {"otype": "Composite", "nested": [{"otype": "SGD", "l2": 1, "n_params_to_optimize": 91}]},
            r"optimizer\.nested\[0\]\.l2: SGD has no such key",
        ),
    ],
)
def test_bad_configurations_are_refused_with_the_path_of_the_key(config: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(config, start())


def test_a_transposed_view_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameters: expected contiguous"):
        build("optimizer", "Adam", parameters=Parameters(other=[torch.nn.Parameter(torch.zeros(3, 2).T)]))


def test_optimizers_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        weights = [torch.nn.Parameter(torch.empty(shape)) for shape in SHAPES]
        for config, _ in CASES.values():
            make(config, weights)
