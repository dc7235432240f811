"""Gradients of optima in the logits, against differences, in float64 and away from ties and boundaries."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import optdecode as od
from optdecode.backends.torch import _coverage

DECODERS = [
    od.softmax(0.7),
    od.Decoder(od.Problem(0.5 * od.NegEntropy(), score_weight=-2.0)),
    od.top_k(4, 0.7),
    od.top_p(0.8, 1.5),
    od.sparsemax(1.3),
    od.sparsemax(2.0).subject_to(od.TopK(3)),
    od.entmax(1.5),
    od.entmax(1.3, 0.7),
    od.entmax(2.0),
    od.entmax(3.0, 2.0),
    od.Decoder(od.Problem(0.5 * od.KL(), temperature=0.8)),
    od.Decoder(od.Problem(0.5 * od.KL(), support=od.TopK(5), score_weight=0.0)),
    od.best_of_k(8, beta=1.0, lam=0.5),
    od.best_of_k(8, beta_bar=3.0, lam=0.5, temperature=1.7, scores="raw"),
    od.best_of_k(8, beta_bar=3.0, lam=0.5).subject_to(od.TopK(5)),
    od.best_of_k(2, beta_bar=3.0, lam=0.5, weights="uniform"),
    od.best_of_k(1, beta_bar=3.0, lam=0.5),
    od.best_of_k(64, beta_bar=5.0, lam=1.0, weights="rank"),
    od.best_of_k(8, beta_bar=2.0, weights=[0.1, 0.0, 2.0, 1.0, 0.5, 0.3, 0.7]),
]


@pytest.fixture(autouse=True)
def fewer_rounds(monkeypatch):
    """Enough for these rows; a gradient by differences solves each of them many times."""
    monkeypatch.setitem(_coverage._ROUNDS, torch.float64, (12, 6))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(requires_grad=True):
    values = np.random.default_rng(5).normal(size=(2, 7)) * 1.5
    return torch.tensor(values, requires_grad=requires_grad)


def outputs(decoder, x, **arguments):
    """q, and log q where it is finite."""
    solution = decoder(x, backend="torch", **arguments)
    return solution.probs, torch.where(solution.support, solution.log_probs, 0.0)


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_gradients_are_those_of_differences(decoder):
    assert gradcheck(lambda x: outputs(decoder, x), (rows(),), eps=1e-6, atol=1e-7)


def test_through_given_anchors_weights_and_budgets():
    anchor = torch.log_softmax(rows(False).flip(-1), -1)
    given = od.best_of_k(8, beta_bar=2.0, lam=0.5, anchor="given")
    arguments = {
        "anchor": anchor,
        "weights": torch.rand(2, 7, dtype=torch.float64),
        "budget": torch.tensor([2, 9]),
        "mask": torch.rand(2, 7) < 0.8,
    }
    assert gradcheck(lambda x: outputs(given, x, **arguments), (rows(),), eps=1e-6, atol=1e-7)


def test_off_the_support_and_on_masked_tokens_there_is_none():
    x = rows()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 2] = False
    solution = od.sparsemax(3.0)(x, mask=mask)
    (solution.probs * torch.arange(7)).sum().backward()
    assert not x.grad[~solution.support].any()
    assert x.grad[solution.support].any()
    # A softmax has no gradient in a constant shift.
    assert x.grad.sum(-1).abs().max() < 1e-12


def test_automatic_where_logits_require_gradients():
    x = rows()
    assert od.softmax()(x).backend == "torch"
    assert od.softmax()(x.detach()).backend == "rust"
    narrow = x.detach().to(torch.bfloat16).requires_grad_()
    od.top_p(0.9)(narrow).log_probs[:, 0].sum().backward()
    assert narrow.grad.dtype == torch.bfloat16
    assert narrow.grad.isfinite().all()


def test_a_bad_row_has_no_gradient_and_harms_no_other():
    x = rows(False)
    x[0, 3] = torch.nan
    x.requires_grad_()
    solution = od.entmax(1.5)(x, on_failure="mark")
    solution.probs[1, 0].sum().backward()
    good = rows()
    od.entmax(1.5)(good).probs[1, 0].sum().backward()
    assert torch.equal(x.grad[1], good.grad[1])


@pytest.mark.parametrize("decoder", [od.greedy(), od.best_of_k(lam=0.0, beta_bar=1.0)], ids=repr)
def test_what_has_no_gradient_says_so(decoder):
    probs = decoder(rows()).probs
    assert not probs.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        probs.sum().backward()


def test_a_loss_falls():
    """Descending the gradient of a negative log-likelihood makes the target likelier."""
    x = rows()
    target = torch.tensor([0, 1])
    for _ in range(30):
        loss = -od.best_of_k(8, beta=1.0, lam=0.5)(x).log_probs.gather(-1, target[:, None]).mean()
        (grad,) = torch.autograd.grad(loss, x)
        x = (x - grad).detach().requires_grad_()
    assert loss < 0.1
