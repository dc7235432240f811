"""The torch backend in graphs: what it runs can be captured, and `torch.compile` traces it whole."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import optdecode as od
from decoders import all_decoders
from optdecode.backends import torch as backend
from optdecode.backends.torch import _coverage, _threshold, _waterfill
from optdecode.backends.torch._parameters import refusal, structure

#: Operations that wait for the device, have a shape that depends on the data, or sort.
FORBIDDEN = {
    "_local_scalar_dense", "is_nonzero", "equal", "item", "nonzero", "nonzero_static", "masked_select", "argwhere",
    "unique_dim", "_unique2", "unique_consecutive", "sort", "argsort", "msort", "topk", "kthvalue", "median",
    "multinomial", "repeat_interleave", "bincount", "histc",
}  # fmt: skip
STEPS = [
    od.softmax(0.8).subject_to(od.Chain(od.TopK(20), od.TopP(0.8))),
    od.entmax(1.5),
    od.best_of_k(solver=od.MirrorAscent()),
]


class Recorder(TorchDispatchMode):
    """Collects the names of operations, and those that index by flags."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names.add(name)
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            flags = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not flags, f"{name} by flags"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch._dynamo.reset()


@pytest.fixture
def few_rounds(monkeypatch):
    """Fewer of the same operations."""
    monkeypatch.setitem(_coverage._ROUNDS, torch.float64, (2, 2))
    monkeypatch.setitem(_coverage._ROUNDS, torch.float32, (2, 2))
    monkeypatch.setattr(_waterfill, "_ROUNDS", 2)
    monkeypatch.setattr(_threshold, "newton_rounds", lambda size: 2)


def inputs(dtype=torch.float32, size=70):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(4, size, generator=generator)).to(dtype)
    return logits, torch.arange(4), torch.full((4,), 7)


def step(decoder):
    """A decode step, from logits to tokens."""

    def run(logits, seeds, positions):
        draw = decoder.sample(logits, seed=seeds, position=positions, n=2, backend="torch", on_failure="mark")
        return draw.tokens, draw.log_probs, draw.status

    return run


def every_structure():
    """One plan of each structure, so that every operation is there."""
    given = od.Decoder(od.Problem(od.KL("given"), support=od.Allowed(range(60))))
    decoders = [decoder for decoder in [*all_decoders(), given] if refusal(decoder.plan) is None]
    found = {structure(decoder.plan, measured_by_call=False): decoder for decoder in decoders}
    return list(found.values())


def record(logits, seeds, positions, plans, mode):
    """Return the names of the operations that solve and draw."""
    tag = "f64" if logits.dtype == torch.float64 else "f32"
    with mode, Recorder() as recorder:
        mask = torch.ones(logits.shape, dtype=torch.bool)
        anchor = torch.log_softmax(logits.double(), -1) if plans[0].anchor == "given" else None
        backend.solve(plans[0], logits, tag, mask, anchor, None, None)
        tokens, *_ = backend.sample(plans, logits, tag, mask, anchor, None, None, seeds, positions, 3, "systematic")
        backend.model_log_probs(plans, logits, tag, mask, anchor, tokens, 2)
    return recorder.names


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_plan_waits_sorts_or_indexes_by_flags(dtype):
    for decoder in every_structure():
        names = record(*inputs(dtype), [decoder.plan], nullcontext())
        assert "searchsorted" in names
        assert not names & FORBIDDEN, (decoder, names & FORBIDDEN)


@pytest.mark.usefixtures("few_rounds")
def test_nor_does_a_mixed_batch_without_data():
    """On tensors that have no values, nothing can be looked at."""
    plans = [decoder.plan for decoder in (od.top_k(3), od.softmax(), od.top_k(5, 0.7), od.best_of_k())]
    mode = FakeTensorMode()
    with mode:
        tensors = (torch.empty(4, 70), torch.arange(4), torch.arange(4))
    assert not record(*tensors, plans, mode) & FORBIDDEN


def test_the_recorder_sees_what_it_forbids():
    x = torch.randn(4)
    with Recorder() as recorder:
        float(x[0])
        x.sort()
        with pytest.raises(AssertionError, match="by flags"):
            x[x > 0]
    assert {"_local_scalar_dense", "sort"} <= recorder.names & FORBIDDEN


@pytest.mark.parametrize("decoder", STEPS, ids=repr)
def test_a_step_compiles_whole(decoder):
    arguments, run = inputs(), step(decoder)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for found, wanted in zip(compiled(*arguments), run(*arguments), strict=True):
        assert torch.equal(found, wanted)
    logits, seeds, positions = arguments
    logits = logits.clone()
    logits[1, 5] = torch.nan  # the same graph marks a bad row and leaves the others alone
    before, after = run(*arguments), compiled(logits, seeds, positions + 0)
    assert after[0][1].tolist() == [-1, -1]
    assert after[2].tolist() == [0, int(od.Status.NAN_SCORES), 0, 0]
    for row in (0, 2, 3):
        assert torch.equal(after[0][row], before[0][row])


def test_a_solution_compiles_whole():
    decoder = od.top_p(0.9)

    def run(logits):
        solution = decoder(logits, backend="torch", on_failure="mark")
        return solution.probs, solution.log_probs, solution.entropy, solution.status

    logits, *_ = inputs()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(logits), run(logits), strict=True):
        assert torch.equal(found, wanted)


def test_a_mixed_batch_compiles_whole():
    decoders = [od.softmax(0.7), od.top_k(3), od.softmax(0.9), od.top_k(5)]

    def run(logits, seeds, positions):
        draw = od.sample_batch(decoders, logits, seeds, positions, backend="torch")
        return draw.tokens, draw.status

    arguments = inputs()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for found, wanted in zip(compiled(*arguments), run(*arguments), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("decoder", [od.best_of_k(), od.entmax(1.3), od.best_of_k(4, beta_bar=1.0, lam=0.0)], ids=repr)
def test_long_graphs_compile_whole(decoder):
    arguments, run = inputs(), step(decoder)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(*arguments), run(*arguments), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_step_compiles_to_machine_code():
    arguments, run = inputs(torch.float64), step(od.top_p(0.9))
    found, wanted = torch.compile(run, fullgraph=True)(*arguments), run(*arguments)
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1])
