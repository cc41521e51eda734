"""Optimizers as loops over numbers, in float64, written from tiny-cuda-nn's definition of each.

Each class has `step(weights, gradients)`, which moves a list of NumPy arrays in place, and `averaged(weights)`.
`n_matrix` says how many of the arrays, from the first on, are matrices of networks. `factor` is the schedule's.
"""

import math

import numpy as np


def decay(relative, absolute, weight):
    return (1 - relative) * weight - math.copysign(absolute, weight)


def places(array):
    return np.ndindex(*array.shape)


class SGD:
    def __init__(self, learning_rate=1e-3, l2_reg=1e-8):
        self.rate, self.l2, self.factor = learning_rate, l2_reg, 1.0

    def step(self, weights, gradients):
        for w, g in zip(weights, gradients, strict=True):
            for i in places(w):
                w[i] -= self.rate * self.factor * (g[i] + self.l2 * w[i])

    def averaged(self, weights):
        return weights


class Adam:
    def __init__(self, n_matrix, **keys):
        self.n_matrix, self.factor, self.t = n_matrix, 1.0, 0
        self.k = {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "l2_reg": 1e-8,
            "relative_decay": 0,
            "absolute_decay": 0,
            "adabound": False,
            "clipping_magnitude": 0,
            "gradient_clipping_magnitude": 0,
            "non_matrix_learning_rate_factor": 1,
            "non_matrix_l2_reg": 0,
            "optimize_matrix_params": True,
            "optimize_non_matrix_params": True,
            "skip_zero_grad_non_matrix_params": True,
        } | keys
        self.state = {}

    def step(self, weights, gradients):
        self.t += 1
        k = self.k
        low, high = 0.0, math.inf
        if k["adabound"]:
            low = 0.1 - 0.1 / ((1 - k["beta2"]) * self.t + 1)
            high = 0.1 + 0.1 / ((1 - k["beta2"]) * self.t)
        for a, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            is_matrix = a < self.n_matrix
            for i in places(w):
                gradient = g[i]
                if is_matrix:
                    if not k["optimize_matrix_params"]:
                        continue
                elif not k["optimize_non_matrix_params"]:
                    continue
                elif gradient == 0 and k["skip_zero_grad_non_matrix_params"]:
                    continue
                gradient += (k["l2_reg"] if is_matrix else k["non_matrix_l2_reg"]) * w[i]
                limit = k["gradient_clipping_magnitude"]
                if limit != 0:
                    gradient = math.copysign(min(abs(gradient), limit), gradient)
                m, v, n = self.state.get((a, i), (0.0, 0.0, 0))
                m = k["beta1"] * m + (1 - k["beta1"]) * gradient
                v = k["beta2"] * v + (1 - k["beta2"]) * gradient * gradient
                n += 1
                self.state[a, i] = m, v, n
                rate = k["learning_rate"] * self.factor * (1 if is_matrix else k["non_matrix_learning_rate_factor"])
                rate *= math.sqrt(1 - k["beta2"] ** n) / (1 - k["beta1"] ** n)
                divisor = math.sqrt(v) + k["epsilon"]
                effective = min(max(rate / divisor, low), high) if divisor > 0 else 0.0  # m is 0 then
                new = decay(k["relative_decay"] * rate, k["absolute_decay"] * rate, w[i]) - effective * m
                if k["clipping_magnitude"] != 0:
                    new = min(max(new, -k["clipping_magnitude"]), k["clipping_magnitude"])
                w[i] = new

    def averaged(self, weights):
        return weights


class Novograd:
    """Every array is a layer (tiny-cuda-nn moves only matrices)."""

    def __init__(self, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, relative_decay=0, absolute_decay=0):
        self.rate, self.beta1, self.beta2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.relative, self.absolute = relative_decay, absolute_decay
        self.factor, self.t, self.m, self.v = 1.0, 0, {}, {}

    def step(self, weights, gradients):
        self.t += 1
        beta1, beta2 = (0, 0) if self.t == 1 else (self.beta1, self.beta2)
        rate = self.rate * self.factor
        for a, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            self.v[a] = beta2 * self.v.get(a, 0.0) + (1 - beta2) * sum(g[i] ** 2 for i in places(g))
            for i in places(w):
                m = beta1 * self.m.get((a, i), 0.0) + (1 - beta1) * g[i] / (math.sqrt(self.v[a]) + self.epsilon)
                self.m[a, i] = m
                w[i] = decay(self.relative * rate, self.absolute * rate, w[i]) - rate * m

    def averaged(self, weights):
        return weights


class Shampoo:
    def __init__(self, n_matrix, **keys):
        self.n_matrix, self.factor, self.s = n_matrix, 1.0, 0
        self.k = {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.99,
            "beta3": 0.9,
            "beta_shampoo": 0.9,
            "epsilon": 1e-8,
            "identity": 0.01,
            "cg_on_momentum": True,
            "l2_reg": 1e-5,
            "relative_decay": 0,
            "absolute_decay": 0,
            "frobenius_normalization": True,
        } | keys
        self.m, self.v, self.S, self.L, self.R, self.L_root, self.R_root = ({} for _ in range(7))

    def fade(self, beta, old, new):
        debias = 1 - beta ** (self.s + 1)
        return (1 - beta) / debias * new + beta * (1 - beta**self.s) / debias * old

    def step(self, weights, gradients):
        k = self.k
        batches = []  # runs of matrices of one shape
        for a in range(self.n_matrix):
            if not batches or weights[batches[-1][0]].shape != weights[a].shape:
                batches.append([])
            batches[-1].append(a)
        for a, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            gradient = g + k["l2_reg"] * w
            self.m[a] = self.fade(k["beta1"], self.m.get(a, 0.0), gradient)
            self.v[a] = self.fade(k["beta2"], self.v.get(a, 0.0), gradient**2)
            momentum = self.m[a] / (np.sqrt(self.v[a]) + k["epsilon"])
            rate, move = k["learning_rate"] * self.factor, momentum
            if a < self.n_matrix:
                G = momentum if k["cg_on_momentum"] else g
                self.L[a] = self.fade(k["beta3"], self.L.get(a, 0.0), G @ G.T)
                self.R[a] = self.fade(k["beta3"], self.R.get(a, 0.0), G.T @ G)
                if self.s == 0:
                    continue
                move = self.L_root[a] @ momentum @ self.R_root[a]
                self.S[a] = move = self.fade(k["beta_shampoo"], self.S.get(a, 0.0), move)
                if k["frobenius_normalization"]:
                    rate *= math.sqrt((momentum**2).sum()) / math.sqrt((move**2).sum())
            for i in places(w):
                w[i] = decay(k["relative_decay"] * rate, k["absolute_decay"] * rate, w[i]) - rate * move[i]
        self.s += 1
        turn = (10 if self.s < 100 else 200) // len(batches)
        due = batches if self.s == 1 else [batches[self.s // turn % len(batches)]] if self.s % turn == 0 else []
        for a in (a for batch in due for a in batch):
            self.L_root[a] = inverse_fourth_root(self.L[a], k["identity"])
            self.R_root[a] = inverse_fourth_root(self.R[a], k["identity"])

    def averaged(self, weights):
        return weights


def inverse_fourth_root(matrix, identity):
    """By the coupled Newton iteration X <- X T, M <- T^4 M with T = (5 I - M) / 4 (Guo & Higham 2006)."""
    eye = np.eye(len(matrix))
    A = 0.5 * (matrix + matrix.T) * (1 - identity) + identity * eye
    c = math.sqrt(2) / np.linalg.norm(A, 2)
    X, M = c**0.25 * eye, c * A
    for _ in range(200):
        T = (5 * eye - M) / 4
        X, M = X @ T, np.linalg.matrix_power(T, 4) @ M
    return X


class EMA:
    def __init__(self, nested, decay=0.99):
        self.nested, self.decay, self.t, self.mean = nested, decay, 0, None

    def step(self, weights, gradients):
        self.nested.step(weights, gradients)
        self.t += 1
        old = 1 - self.decay ** (self.t - 1)
        new = 1 / (1 - self.decay**self.t)
        latest = self.nested.averaged(weights)
        mean = self.mean or [np.zeros_like(w) for w in weights]
        self.mean = [(m * self.decay * old + w * (1 - self.decay)) * new for m, w in zip(mean, latest, strict=True)]

    def averaged(self, weights):
        return self.mean


class Average:
    """The mean of the last samples (tiny-cuda-nn divides by `n_samples` also while there are fewer)."""

    def __init__(self, nested, n_samples=128):
        self.nested, self.n_samples, self.samples = nested, n_samples, []

    def step(self, weights, gradients):
        self.nested.step(weights, gradients)
        self.samples = [*self.samples, [w.copy() for w in weights]][-self.n_samples :]

    def averaged(self, weights):
        return [np.mean(column, axis=0) for column in zip(*self.samples, strict=True)]


class Lookahead:
    def __init__(self, nested, alpha=0.5, n_steps=16):
        self.nested, self.alpha, self.n_steps, self.t, self.slow = nested, alpha, n_steps, 0, None

    def step(self, weights, gradients):
        if self.t == 0:
            self.slow = [w.copy() for w in weights]
        if self.t % self.n_steps == 0:
            for w, slow in zip(weights, self.slow, strict=True):
                for i in places(w):
                    slow[i] = w[i] = slow[i] * (1 - self.alpha) + w[i] * self.alpha
        self.nested.step(weights, gradients)
        self.t += 1

    def averaged(self, weights):
        return self.slow


class Batched:
    def __init__(self, nested, batch_size_multiplier=16):
        self.nested, self.n, self.t, self.pool = nested, batch_size_multiplier, 0, None

    def step(self, weights, gradients):
        if self.t % self.n == 0:
            self.pool = [np.zeros_like(w) for w in weights]
        self.pool = [p + g / self.n for p, g in zip(self.pool, gradients, strict=True)]
        self.t += 1
        if self.t % self.n == 0:
            self.nested.step(weights, self.pool)

    def averaged(self, weights):
        return self.nested.averaged(weights)


class ExponentialDecay:
    def __init__(self, nested, decay_base=0.1, decay_start=10_000, decay_end=10_000_000, decay_interval=10_000):
        self.nested, self.base, self.start, self.end, self.interval = (
            nested,
            decay_base,
            decay_start,
            decay_end,
            decay_interval,
        )
        self.t, self.drops = 0, 1.0

    def step(self, weights, gradients):
        if self.t >= self.start and (self.t - self.start) % self.interval == 0 and self.t <= self.end:
            self.drops *= self.base
        self.nested.factor = self.drops
        self.nested.step(weights, gradients)
        self.t += 1

    def averaged(self, weights):
        return self.nested.averaged(weights)


class Composite:
    """`split` arrays go to the first, the rest to the second."""

    def __init__(self, first, second, split):
        self.first, self.second, self.split = first, second, split

    def step(self, weights, gradients):
        self.first.step(weights[: self.split], gradients[: self.split])
        self.second.step(weights[self.split :], gradients[self.split :])

    def averaged(self, weights):
        return [*self.first.averaged(weights[: self.split]), *self.second.averaged(weights[self.split :])]
