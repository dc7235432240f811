"""What goes wrong in a callback of llama.cpp reaches the caller, and what would pass by unseen is refused."""

from itertools import islice

import llama_cpp
import numpy as np
import pytest

import optdecode as od
from optdecode._status import Status
from optdecode.errors import ConvergenceError, OptdecodeError, ProblemError, ShapeError
from optdecode.integrations import llama_cpp as ours
from optdecode.models import dagmod

pytestmark = pytest.mark.engine

BROKEN = od.softmax().subject_to(od.Allowed([5000]))  # the model has 1,024 tokens: an error at every call
CUT = od.top_p(0.95, temperature=1.3)


@pytest.fixture(scope="module")
def model(dagmod_llama: llama_cpp.Llama) -> llama_cpp.Llama:
    return dagmod_llama


@pytest.fixture(scope="module")
def ids(model: llama_cpp.Llama) -> list[list[int]]:
    return [model.tokenize(problem.prompt.encode()) for problem in dagmod.generate(6, seed=3)]


def test_an_error_in_the_sampler_reaches_the_caller(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    with pytest.raises(OptdecodeError, match="5000"):
        ours.generate(model, ids[0], BROKEN)
    with pytest.raises(OptdecodeError, match="5000"):  # in the callback
        ours.generate(model, ids[0], BROKEN, logit_bias={5: 1.0})
    with ours.drawing(model, BROKEN):
        with pytest.raises(OptdecodeError, match="5000"):
            model.create_completion(ids[0])
        with pytest.raises(OptdecodeError, match="5000"):
            list(model.create_completion(ids[0], stream=True))

    def interrupted(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    processors = llama_cpp.LogitsProcessorList([interrupted])
    with ours.drawing(model, CUT), pytest.raises(KeyboardInterrupt):
        next(model.generate(ids[0], logits_processor=processors))
    assert ours.generate(model, ids[0], od.greedy(), max_tokens=5)[0].status == Status.OK


def test_a_row_without_a_distribution_is_raised_or_marked(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    nothing = {token: float("-inf") for token in range(1024)}
    with pytest.raises(ConvergenceError, match="INFEASIBLE"):
        ours.generate(model, ids[0], CUT, logit_bias=nothing)
    # No token can follow: llama.cpp itself ends the process here.
    stuck = llama_cpp.LlamaGrammar.from_string('root ::= " c" " Z"', verbose=False)
    with pytest.raises(ConvergenceError, match="INFEASIBLE"):
        ours.generate(model, ids[0], CUT, grammar=stuck)
    marked = ours.generate(model, ids[0], CUT, grammar=stuck, n=2, on_failure="mark")
    assert [(found.tokens, found.status, found.finished) for found in marked] == [([23], Status.INFEASIBLE, False)] * 2

    def poison(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        scores[7] = np.nan
        return scores

    with ours.drawing(model, CUT), pytest.raises(ConvergenceError, match="NAN"):
        next(model.generate(ids[0], logits_processor=llama_cpp.LogitsProcessorList([poison])))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ctypes reports it too
def test_an_error_in_the_processor_reaches_the_caller(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    processor = ours.OptdecodeLogitsProcessor(BROKEN)
    with pytest.raises(OptdecodeError, match="5000"):
        model.create_completion(ids[0], **processor.kwargs())
    with pytest.raises(OptdecodeError, match="5000"):
        list(model.create_completion(ids[0], stream=True, **processor.kwargs()))
    with pytest.raises(OptdecodeError, match="5000"):
        next(model.generate(ids[0], **processor.kwargs("generate")))
    with pytest.raises(OptdecodeError, match="5000"), processor:  # a call that takes no stopping criteria
        model.create_chat_completion(
            [{"role": "user", "content": "?"}], max_tokens=2, **processor.kwargs("create_chat_completion")
        )
    assert processor.check() is False


def test_what_would_pass_by_unseen_is_refused(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    processor = ours.OptdecodeLogitsProcessor(CUT)
    with pytest.raises(TypeError, match="logit_bias"):
        model.create_completion(ids[0], logit_bias={5: 1.0}, **processor.kwargs())
    with pytest.raises(TypeError, match="temperature"):
        model.create_completion(ids[0], temperature=0.5, **processor.kwargs())
    # llama-cpp-python drops its processors where a bias is given too.
    bare = llama_cpp.LogitsProcessorList([processor])
    with pytest.raises(OptdecodeError, match="never called"), processor:
        model.create_completion(ids[0], logit_bias={5: 1.0}, logits_processor=bare, max_tokens=2)
    with ours.drawing(model, CUT):
        for name, value in {"temperature": 0.5, "top_k": 10, "top_p": 0.5, "min_p": 0.2, "mirostat_mode": 2}.items():
            with pytest.raises(ProblemError, match="temp" if name == "temperature" else name):
                model.create_completion(ids[0], **{name: value})
        model.create_completion(ids[0], max_tokens=2, **ours.neutral_kwargs())
    sampler = ours.DecoderSampler(1024)
    with pytest.raises(ProblemError, match="add_decoder"):
        sampler.draw(np.zeros(1024, dtype=np.float32))
    with pytest.raises(ShapeError, match=r"a row of 1024 logits is needed; got \(1000,\)"):
        sampler.draw(np.zeros(1000, dtype=np.float32))
    sampler.add_decoder(od.softmax(), seed=1)
    sampler.add_greedy()
    with pytest.raises(ProblemError, match="later link"):
        sampler.draw(np.linspace(0, 0.1, 1024, dtype=np.float32))
    with pytest.raises(ProblemError, match="exactly one"):
        sampler.add_decoder(od.softmax())
    for arguments in ({"max_tokens": 256}, {"logit_bias": {1024: 1.0}}, {"n": 0}, {"on_failure": "skip"}):
        with pytest.raises(ProblemError):
            ours.generate(model, ids[0], CUT, **arguments)
    with pytest.raises(ProblemError):
        ours.OptdecodeLogitsProcessor("top_p(0.9)")


def test_drawing_leaves_the_model_as_it_was(model: llama_cpp.Llama, ids: list[list[int]]) -> None:
    def engine() -> list[int]:
        model.reset()
        model.set_seed(4)
        return list(islice(model.generate(ids[0], temp=1.5), 20))

    before = engine()
    with ours.drawing(model, od.greedy()):
        list(islice(model.generate(ids[0]), 5))
        with ours.drawing(model, CUT, seed=1):
            inner = list(islice(model.generate(ids[0]), 5))
        outer = list(islice(model.generate(ids[0]), 5))
        assert outer == ours.generate(model, ids[0], od.greedy(), max_tokens=5)[0].tokens
        model.reset()
        model.eval(ids[0])
        assert model.sample() == outer[0]
    with ours.drawing(model, od.softmax(2.0), seed=3):
        model.reset()
        model.eval(ids[0])
        row = np.array(model.scores[len(ids[0]) - 1])
        by_hand = [model.sample() for _ in range(20)]
    assert by_hand == [od.softmax(2.0).sample(row, seed=3, position=i).tokens[0] for i in range(20)]
    assert inner == ours.generate(model, ids[0], CUT, seed=1, max_tokens=5)[0].tokens
    assert engine() == before
    assert "_init_sampler" not in vars(model)
