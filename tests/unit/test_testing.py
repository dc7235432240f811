"""`optdecode.testing`: what it accepts, what it finds, and that it says where."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

import optdecode as od
from optdecode.errors import ConvergenceError, ProblemError
from optdecode.testing import Report, assert_on_simplex, assert_optimal, check_regularizer, rows
from user_terms import (
    Broken,
    BrokenInverse,
    DualEntropy,
    DualQuadratic,
    DualTsallis,
    GroupBalance,
    OwnCoverage,
    OwnKL,
    Repetition,
    TorchEntropy,
    TorchQuadratic,
)

BUILT_IN = [
    od.NegEntropy(),
    od.Quadratic(),
    *(od.Tsallis(alpha) for alpha in (1.0, 1.0001, 1.5, 3.0, 50.0)),
    *(od.KL(anchor) for anchor in ("model", "given")),
    *(od.ChiSquare(anchor) for anchor in ("model", "given")),
    *(od.ReverseKL(anchor) for anchor in ("model", "given")),
    *(od.AlphaDivergence(alpha) for alpha in (-16.0, 0.0, 0.5, 1.0, 2.0, 16.0)),
    *(-1.0 * od.Coverage(k, weights) for k in (1, 8, 1000) for weights in ("model", "uniform", "rank")),
    *(-1.0 * od.LogCoverage(k, weights) for k in (1, 8, 100) for weights in ("model", "uniform", "rank")),
    0.5 * od.KL() - 0.1 * od.Coverage(8) + 2.0 * od.Quadratic(),
]
OWN = [
    OwnKL(),
    OwnCoverage(8),
    DualEntropy(),
    DualQuadratic(),
    DualTsallis(1.5),
    GroupBalance((0.2, 0.3, 0.5)),
    Repetition((0, 3)),
    1e4 * GroupBalance((0.5, 0.5)) + od.NegEntropy(),
]


@pytest.mark.parametrize("regularizer", BUILT_IN + OWN, ids=repr)
def test_what_is_right_passes(regularizer):
    for seed, vocabulary in enumerate((50, 4, 300)):
        report = check_regularizer(regularizer, vocabulary=vocabulary, seed=seed)
    assert report == Report(regularizer, points=32, pairs=224, vocabulary=300, rows=8)


@pytest.mark.parametrize("regularizer", [TorchEntropy(), TorchQuadratic()], ids=repr)
def test_torch_terms_pass(regularizer):
    pytest.importorskip("torch")
    check_regularizer(regularizer)


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [
        (Broken("gradient"), r"row 0: the gradient of Broken.*slope .* and the gradient says"),
        (Broken("sign", (2,)), "row 2: the gradient of Broken"),
        (Broken("nan value", (5,)), "row 5: Broken.*value returned NaN"),
        (Broken("nan gradient"), "row 0: Broken.*gradient returned NaN"),
        (Broken("raises", (1,)), "row 1: Broken.*KeyError"),
        (Broken("shape"), "row 0: Broken.*must return float64 of shape"),
        (Broken("dtype"), "got float32"),
        (Broken("concave", (3,)), "row 3: Broken.*is not convex"),
        (Broken("mixed"), "row 0: the value depends on the other rows of the batch: alone it differs by"),
        (Broken("in place"), "read-only"),
        (BrokenInverse(), "gradient_inverse does not invert its gradient"),
        (od.Coverage(8), r"Coverage\(budget=8\) is not convex"),
        (-0.5 * od.NegEntropy(), "is not convex"),
        (od.NegEntropy() - 9.0 * od.Quadratic(), "is not convex"),
        (od.L0(), "L0 has no gradient"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_wrong_is_found(regularizer, message):
    with pytest.raises(ConvergenceError, match=message):
        check_regularizer(regularizer)


def scaled(cls, method, factor):
    """A copy of a built-in class with one method off by a factor."""
    name = f"{cls.__name__}With{method.title()}TimesTwo"

    def changed(self, q, ctx):
        return factor * getattr(cls, method)(self, q, ctx)

    return dataclasses.dataclass(frozen=True, repr=False)(type(name, (cls,), {method: changed, "__module__": __name__}))


@pytest.mark.parametrize("method", ["value", "gradient"])
@pytest.mark.parametrize(
    ("cls", "arguments", "sign"),
    [
        (od.NegEntropy, (), 1.0),
        (od.Quadratic, (), 1.0),
        (od.Tsallis, (1.5,), 1.0),
        (od.KL, (), 1.0),
        (od.ChiSquare, (), 1.0),
        (od.ReverseKL, (), 1.0),
        (od.AlphaDivergence, (0.5,), 1.0),
        (od.Coverage, (8,), -1.0),
        (od.LogCoverage, (8,), -1.0),
    ],
)
def test_broken_copies_of_the_built_in_ones_are_found(cls, arguments, sign, method):
    with pytest.raises(ConvergenceError, match="is not that of its value"):
        check_regularizer(sign * scaled(cls, method, 2.0)(*arguments))


def test_arguments():
    with pytest.raises(ProblemError, match="expected a Regularizer; got TopK"):
        check_regularizer(od.TopK(3))
    with pytest.raises(ProblemError, match="vocabulary must be >= 2"):
        check_regularizer(od.KL(), vocabulary=1)
    with pytest.raises(ProblemError, match="rows must be an integer"):
        check_regularizer(od.KL(), rows=0)


def test_assertions_name_the_row():
    logits = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    solution = od.softmax()(logits)
    assert_on_simplex(solution)
    assert_optimal(solution)
    with pytest.raises(AssertionError, match=r"row 1 sums to 0\.9"):
        assert_on_simplex([[0.5, 0.5], [0.5, 0.4]])
    with pytest.raises(AssertionError, match=r"row 0: token 1 has probability -0\.1"):
        assert_on_simplex([[1.1, -0.1]])
    with pytest.raises(AssertionError, match="row 0 has NaN"):
        assert_on_simplex([[np.nan, 1.0]])
    rough = od.best_of_k(beta=2.0, solver=od.MirrorAscent(1, 0.1))(logits)
    with pytest.raises(AssertionError, match="row 0 has a relative gap of"):
        assert_optimal(rough)
    with pytest.raises(AssertionError, match="row 1 has status 2"):
        assert_optimal(od.softmax()(np.array([[0.0, 1.0], [-np.inf, -np.inf]]), on_failure="mark"))


@given(rows(2, 9))
def test_rows_are_rows(row):
    assert row.dtype == np.float64
    assert 2 <= row.size <= 9
    assert np.isfinite(row).any()
    assert not np.isnan(row).any()
