"""The SGLang adapter against stand-ins: SGLang is not installed here and needs a GPU, so nothing of it runs.

`StandInProcessor`, `StandInSampler` and `stand_in_register` follow SGLang's published interface, no more of it than the
adapter touches: who calls a processor with what, that a sampler applies processors, then temperature and softmax, then
draws, and how sampler backends are registered.
"""

import json
import subprocess
import sys
import types
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import dill
import pytest
import torch

import optdecode as od

pytestmark = pytest.mark.engine

VOCABULARY = 128
NAMES = ("optdecode.integrations.sglang", "optdecode.integrations._sglang_sampler")


class StandInProcessor(ABC):
    """`CustomLogitProcessor`."""

    @abstractmethod
    def __call__(self, logits: torch.Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> torch.Tensor: ...

    @classmethod
    def to_str(cls) -> str:
        return json.dumps({"callable": dill.dumps(cls).hex()})

    @classmethod
    def from_str(cls, text: str) -> Any:
        return dill.loads(bytes.fromhex(json.loads(text)["callable"]))()


class StandInSampler(torch.nn.Module):
    """`Sampler`: processors by sub-batch, temperature, softmax, a draw."""

    def forward(
        self, logits_output: Any, sampling_info: Any, return_logprob: bool, top_logprobs_nums: Any,
        token_ids_logprobs: Any, positions: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        logits = logits_output.next_token_logits
        apply_processors(logits, sampling_info)
        logits.div_(sampling_info.temperatures)
        return torch.multinomial(logits.softmax(dim=-1), 1).view(-1)


FACTORIES: dict[str, Callable[[], StandInSampler]] = {}


def stand_in_register(backend: str, factory: Callable[[], StandInSampler]) -> None:
    """`register_sampler_backend`; what is created must be a `Sampler`."""
    FACTORIES[backend] = factory


def apply_processors(logits: torch.Tensor, info: Any, each: int = 1) -> None:
    """Call each processor once, with a copy of the rows of its requests, and write back what it returns."""
    for processor, mask in info.custom_logit_processor:
        rows = mask.repeat_interleave(each)
        logits[rows] = processor(logits[rows], [info.custom_params[at] for at in mask.nonzero().view(-1).tolist()])


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the adapter where the stand-ins are SGLang."""
    modules = {
        "sglang.srt.sampling.custom_logit_processor": {"CustomLogitProcessor": StandInProcessor},
        "sglang.srt.layers.sampler": {"Sampler": StandInSampler, "register_sampler_backend": stand_in_register},
    }
    packages = {name.rsplit(".", end)[0] for name in modules for end in (1, 2, 3)}
    for name in [*packages, *modules]:
        module = types.ModuleType(name)
        module.__dict__.update(modules.get(name, {"__path__": []}))
        monkeypatch.setitem(sys.modules, name, module)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import optdecode.integrations.sglang as adapter

    yield adapter
    FACTORIES.clear()
    for name in NAMES:
        sys.modules.pop(name, None)


@dataclass
class Batch:
    """A step of requests: None is a plain one, else what `request_fields` made and the tokens so far."""

    adapter: Any
    asked: list[dict[str, Any] | None]
    prompts: list[int]
    outputs: list[int]
    custom_params: list[dict[str, Any] | None] = field(init=False)

    def __post_init__(self) -> None:
        live = [
            SimpleNamespace(origin_input_ids=[1] * p, output_ids=[2] * o)
            for p, o in zip(self.prompts, self.outputs, strict=True)
        ]
        self.custom_params = [
            None if fields is None else {**fields["sampling_params"]["custom_params"], "__req__": request}
            for fields, request in zip(self.asked, live, strict=True)
        ]
        mask = torch.tensor([fields is not None for fields in self.asked])
        texts = {fields["custom_logit_processor"] for fields in self.asked if fields is not None}
        self.custom_logit_processor = [(self.adapter.OptdecodeLogitProcessor.from_str(text), mask) for text in texts]
        self.temperatures = torch.ones(len(self.asked), 1)

    def step(self, sampler: StandInSampler, logits: torch.Tensor) -> torch.Tensor:
        last = torch.tensor([p + o - 1 for p, o in zip(self.prompts, self.outputs, strict=True)])
        return sampler(SimpleNamespace(next_token_logits=logits), self, False, [], [], last)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(3)) * 3


def test_without_sglang_requests_can_be_written_and_no_server_registered() -> None:
    code = """if True:
        import sys, optdecode.integrations.sglang as adapter
        assert "sglang" not in sys.modules and "torch" not in sys.modules
        print(adapter.request_fields("top_k(5)")["sampling_params"]["custom_params"])
        try:
            adapter.register()
        except ImportError as error:
            print(error)"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "{'optdecode': 'top_k(5)'}"
    assert out[1].startswith("register needs SGLang")


def test_the_class_travels_by_reference_and_is_built_without_arguments(adapter: Any) -> None:
    text = adapter.request_fields("greedy()")["custom_logit_processor"]
    assert len(text) < 300
    processor = StandInProcessor.from_str(text)
    assert isinstance(processor, adapter.OptdecodeLogitProcessor)
    assert isinstance(processor, StandInProcessor)


def test_rows_become_log_q_and_plain_ones_stay(adapter: Any) -> None:
    decoders = [od.entmax(1.5), None, od.top_p(0.9), od.best_of_k(8)]
    batch = Batch(adapter, [d and adapter.request_fields(d) for d in decoders], [3] * 4, [0] * 4)
    before = rows(4)
    after = before.clone()
    apply_processors(after, batch)
    for row, decoder in enumerate(decoders):
        expected = before[row] if decoder is None else decoder(before[row]).log_probs
        assert torch.equal(after[row], expected)


def test_several_rows_a_request(adapter: Any) -> None:
    batch = Batch(
        adapter, [adapter.request_fields("top_k(3)"), None, adapter.request_fields("sparsemax()")], [3] * 3, [0] * 3
    )
    before = rows(6)
    after = before.clone()
    apply_processors(after, batch, each=2)
    for row, decoder in enumerate([od.top_k(3)] * 2 + [None] * 2 + [od.sparsemax()] * 2):
        assert torch.equal(after[row], before[row] if decoder is None else decoder(before[row]).log_probs)


def test_the_sampler_draws_what_is_drawn_outside(adapter: Any) -> None:
    adapter.register()
    sampler = FACTORIES["optdecode"]()
    assert isinstance(sampler, StandInSampler)
    decoders = [od.softmax(), od.entmax(1.5), None, od.top_p(0.9), od.best_of_k(8)]
    fields = [d and adapter.request_fields(d, seed=70 + at) for at, d in enumerate(decoders)]
    for step in range(20):
        batch = Batch(adapter, fields, [1, 4, 2, 7, 3], [step, 0, step, 5 * step, 9])
        before = rows(5) + step
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the processor says nothing of rows that the sampler has drawn
            tokens = batch.step(sampler, before.clone())
        for row, decoder in enumerate(decoders):
            if decoder is not None:
                draw = decoder.sample(before[row], seed=70 + row, position=batch.outputs[row])
                assert tokens[row] == draw.tokens[0]


def test_coupled_requests_make_the_draws_of_one_call(adapter: Any) -> None:
    adapter.register()
    n = 5
    fields = [adapter.request_fields("softmax()", 9, "systematic", index, n) for index in range(n)]
    before = rows(1).repeat(n, 1)
    tokens = Batch(adapter, fields, [2] * n, [3] * n).step(FACTORIES["optdecode"](), before.clone())
    assert tokens.tolist() == od.softmax().sample(before[0], 9, 3, n=n, coupling="systematic").tokens.tolist()


def test_requests_without_a_seed_keep_the_law_q_under_our_sampler(adapter: Any) -> None:
    adapter.register()
    batch = Batch(adapter, [adapter.request_fields("top_k(2)")] * 400, [1] * 400, [0] * 400)
    torch.manual_seed(0)
    before = rows(1)
    tokens = batch.step(FACTORIES["optdecode"](), before.repeat(400, 1))
    q = od.top_k(2)(before[0]).probs
    assert (q[tokens] > 0).all()
    best = int(q.argmax())
    assert abs((tokens == best).float().mean() - q[best]) < 0.12


def test_a_seed_without_our_sampler_is_warned_of_and_keeps_the_law(adapter: Any) -> None:
    batch = Batch(adapter, [adapter.request_fields("entmax(1.5)", seed=3)], [1], [0])
    before = rows(1)
    after = before.clone()
    with pytest.warns(RuntimeWarning, match="optdecode_seed needs --sampling-backend optdecode"):
        apply_processors(after, batch)
    assert torch.equal(after[0], od.entmax(1.5)(before[0]).log_probs)


def test_bad_requests_and_bad_rows_harm_no_other(adapter: Any) -> None:
    adapter.register()
    good = adapter.request_fields("top_p(0.9)", seed=5)
    batch = Batch(adapter, [good] * 4, [2] * 4, [1] * 4)
    batch.custom_params[0] = {"optdecode": "top_kk(3)", "optdecode_seed": 5}
    before = rows(4)
    before[2, 3] = torch.inf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logits = before.clone()
        logits[2, 3] = 0.0  # the stand-in would not draw from an infinite row; only ours must see it
        tokens = batch.step(FACTORIES["optdecode"](), logits)
        after = before.clone()
        apply_processors(after, batch)
    texts = [str(warning.message) for warning in caught]
    assert any("unknown name" in text and "left to the engine" in text for text in texts)
    assert any("row 2 of the batch has no distribution, INF_SCORES" in text for text in texts)
    for row in (1, 3):
        assert tokens[row] == od.top_p(0.9).sample(before[row], 5, 1).tokens[0]
        assert torch.equal(after[row], od.top_p(0.9)(before[row]).log_probs)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("top_kk(3)",), "unknown name"),
        (("top_k(3)", -1), "optdecode_seed must be"),
        (("top_k(3)", None, "systematic", 0, 2), "give optdecode_seed too"),
        (("top_k(3)", 1, "systematic", None, 2), "need index"),
        (("top_k(3)", 1, "systematic", 2, 2), r"in \[0, 2\)"),
        ((od.softmax().subject_to(od.Allowed([1])),), "vocabulary"),
    ],
)
def test_bad_requests_fail_where_they_are_written(adapter: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.request_fields(*arguments)
