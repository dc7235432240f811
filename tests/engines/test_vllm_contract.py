"""The vLLM adapter against vLLM's own classes, without an engine: parameters, batches that change, Model Runner V2.

Model Runner V2 needs a GPU and Triton; its contract is held here by the installed abstract class, loader, request state
and context, on CPU tensors. It has not run in an engine.
"""

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.sample.logits_processor import LogitsProcessors, validate_logits_processors_parameters
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as V1
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcRequestState,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2
from vllm.v1.worker.gpu.states import RequestState
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

import optdecode as od
from optdecode.integrations._vllm_params import READ, REFUSED, WITHOUT_EFFECT, request_of
from optdecode.integrations.vllm import OptdecodeLogitsProcessor, from_sampling_params

pytestmark = pytest.mark.engine

Runner = tuple[RequestState, OptdecodeLogitsProcessor]
NAME = "optdecode.integrations.vllm:OptdecodeLogitsProcessor"
CPU = torch.device("cpu")
VOCABULARY = 64


def asks(decoder: str = "top_p(0.9)", n: int = 1, seed: int | None = None, **others: Any) -> SamplingParams:
    """Ask for a decoder; `optdecode_...` go where they belong, the rest is the engine's."""
    own = {key: others.pop(key) for key in list(others) if key.startswith("optdecode")}
    return SamplingParams(n=n, seed=seed, extra_args={"optdecode": decoder, **own}, **others)


# ---- parameters ----


def test_every_field_of_sampling_params_is_accounted_for() -> None:
    fields = set(SamplingParams.__struct_fields__)
    kinds = [READ, WITHOUT_EFFECT, set(REFUSED)]
    assert set().union(*kinds) == fields
    assert sum(map(len, kinds)) == len(fields)


@pytest.mark.parametrize(
    ("changed", "decoder"),
    [
        ({}, od.softmax()),
        ({"temperature": 0.0}, od.greedy()),
        ({"temperature": 0.5}, od.softmax(0.5)),
        ({"top_k": -1}, od.softmax()),
        ({"top_k": 7, "temperature": 0.5}, od.top_k(7, 0.5)),
        ({"top_p": 0.9}, od.top_p(0.9)),
        ({"min_p": 0.1}, od.min_p(0.1)),
        ({"top_k": 7, "top_p": 0.9}, od.softmax().subject_to(od.Chain(od.TopK(7), od.TopP(0.9)))),
        ({"min_p": 0.1, "top_k": 7, "top_p": 0.9},
         od.softmax().subject_to(od.Chain(od.MinP(0.1), od.TopK(7), od.TopP(0.9)))),
        ({"allowed_token_ids": [3, 1], "top_k": 2}, od.top_k(2).subject_to(od.Allowed([1, 3]))),
        ({"extra_args": {"optdecode": "entmax(1.5)", "optdecode_seed": 3}}, od.entmax(1.5)),
    ],
)  # fmt: skip
def test_from_sampling_params(changed: dict[str, Any], decoder: od.Decoder) -> None:
    assert from_sampling_params(SamplingParams(**changed)) == decoder


REFUSALS = {
    "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "watermarking": True,
    "min_tokens": 2, "structured_outputs": StructuredOutputsParams(regex="a"), "logit_bias": {1: 1.0},
    "bad_words": ["a"], "_bad_words_token_ids": [[1]], "thinking_token_budget": 3, "trace_decode_token_ids": [1],
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_fields_that_no_decoder_can_have_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}="):
        from_sampling_params(SamplingParams(**{field: REFUSALS[field]}))


def test_a_field_that_a_later_vllm_adds_is_refused_where_it_is_used() -> None:
    class Later(SamplingParams):  # type: ignore[call-arg]
        typical_p: float = 1.0

    assert from_sampling_params(Later()) == od.softmax()
    with pytest.raises(ValueError, match=r"^typical_p=0\.5"):
        from_sampling_params(Later(typical_p=0.5))


def test_arguments_of_others_are_refused_where_a_decoder_must_say_all() -> None:
    with pytest.raises(ValueError, match="'watermark'"):
        from_sampling_params(SamplingParams(extra_args={"watermark": 1}))


def test_fields_without_effect_have_none() -> None:
    params = SamplingParams(
        n=2, seed=1, stop="x", stop_token_ids=[4], ignore_eos=True, max_tokens=3, logprobs=2, prompt_logprobs=1,
        skip_special_tokens=False, output_kind=RequestOutputKind.DELTA, top_k=3,
    )  # fmt: skip
    assert from_sampling_params(params) == od.top_k(3)


BAD = [
    (SamplingParams(extra_args={"optdecode": "top_kk(3)"}), "unknown name"),
    (SamplingParams(extra_args={"optdecode": "top_k(0)"}), "k must be"),
    (SamplingParams(extra_args={"optdecode_seed": 3}), "needs optdecode"),
    (SamplingParams(extra_args={"optdecode": "greedy()", "optdecode_sed": 3}), "optdecode_sed is no argument"),
    (asks(temperature=0.0), "temperature=0 is the engine's own greedy"),
    (asks(temperature=0.7), "temperature must be 1.0 beside optdecode; got 0.7"),
    (asks(top_p=0.9), "top_p must be 1.0"),
    (asks(top_k=5), "top_k must be 0"),
    (asks(min_p=0.1), "min_p must be 0.0"),
    (asks(watermarking=True), "watermarking must be None"),
    (asks(optdecode_seed=3, seed=4), "seed must be left out or equal optdecode_seed=3; got 4"),
    (asks(optdecode_seed=3, n=2), "n=2 with optdecode_seed needs seed=3 too"),
    (asks(optdecode_seed=3, n=2, seed=3, optdecode_index=0), "no optdecode_index"),
    (asks(optdecode_seed=3, n=2, seed=3, optdecode_n=3), "optdecode_n must equal n=2"),
    (asks(optdecode_seed=3, optdecode_coupling="systematic", optdecode_n=2), "systematic draws need optdecode_index"),
]


@pytest.mark.parametrize(("params", "message"), BAD)
def test_a_bad_request_is_refused_under_both_contracts(params: SamplingParams, message: str) -> None:
    with pytest.raises(VLLMValidationError, match=re.escape(message)):
        validate_logits_processors_parameters((NAME,), params)
    with pytest.raises(VLLMValidationError, match=re.escape(message)):
        build_custom_logits_processors_params_validator([NAME])(params)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.3, top_k=3, min_p=0.1, n=3, seed=1),
        SamplingParams(temperature=0.0, extra_args={"session_id": "a"}),
        asks(n=3),
        asks(n=3, seed=5),
        asks(optdecode_seed=3),
        asks(optdecode_seed=3, seed=3, optdecode_index=5),
        asks(optdecode_seed=3, seed=3, n=4),
        asks(optdecode_seed=3, seed=3, n=4, optdecode_coupling="systematic", optdecode_n=4),
        asks(repetition_penalty=1.2, logit_bias={3: 1.0}, bad_words=["a"], allowed_token_ids=[1, 2]),
    ],
)
def test_a_good_request_passes_under_both_contracts(params: SamplingParams) -> None:
    validate_logits_processors_parameters((NAME,), params)
    build_custom_logits_processors_params_validator([NAME])(params)


def test_children_of_a_parent_are_told_apart() -> None:
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.parallel_sampling import ParentRequest

    params = asks(optdecode_seed=40, seed=40, n=3, optdecode_coupling="systematic", optdecode_n=3)
    core = EngineCoreRequest(
        request_id="a", external_req_id="a", prompt_token_ids=[1], mm_features=None, sampling_params=params,
        pooling_params=None, arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
    )  # fmt: skip
    parent = ParentRequest(core)
    children = [request_of(parent.get_child_info(index)[1]) for index in range(3)]
    assert [child.index for child in children] == [0, 1, 2]
    assert {(child.seed, child.coupling, child.n) for child in children} == {(40, "systematic", 3)}


def test_an_engine_that_watermarks_is_refused() -> None:
    config = VllmConfig()
    config.watermark_config = object()
    with pytest.raises(ValueError, match="watermarks"):
        OptdecodeLogitsProcessor(config, CPU, False)


# ---- V1: vLLM's own batch tells the processor what became of it ----


def test_the_processor_runs_where_draws_are_made() -> None:
    processor = OptdecodeLogitsProcessor(VllmConfig(), CPU, False)
    assert isinstance(processor, V1)
    assert isinstance(processor, V2)
    assert LogitsProcessors([processor]).argmax_invariant == [processor]


def state(name: int, params: SamplingParams, output: list[int]) -> CachedRequestState:
    return CachedRequestState(
        req_id=str(name), prompt_token_ids=[1, 2, 3], mm_features=[], sampling_params=params, generator=None,
        block_ids=([0],), num_computed_tokens=0, output_token_ids=output,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_batches_that_change_keep_every_row_with_its_request(seed: int) -> None:
    chance = random.Random(seed)
    processor = OptdecodeLogitsProcessor(VllmConfig(), CPU, False)
    batch = InputBatch(
        max_num_reqs=16, max_model_len=64, max_num_batched_tokens=64, device=CPU, vocab_size=VOCABULARY,
        block_sizes=[16], max_num_blocks_per_req=[4], logitsprocs=LogitsProcessors([processor]),
    )  # fmt: skip
    live: dict[str, CachedRequestState] = {}
    name = 0
    for _ in range(60):
        for gone in [key for key in live if chance.random() < 0.25]:
            batch.remove_request(gone)
            del live[gone]
        for _ in range(chance.randint(0, min(5, 16 - len(live)))):
            name += 1
            plain = chance.random() < 0.4
            params = SamplingParams(temperature=0.5) if plain else asks(f"top_k({name})", optdecode_seed=name)
            # Some come back after preemption, with tokens.
            live[str(name)] = state(name, params, [7] * chance.randint(0, 3))
            batch.add_request(live[str(name)])
        batch.condense()
        if batch.num_reqs > 1 and chance.random() < 0.5:
            batch.swap_states(*chance.sample(range(batch.num_reqs), 2))
        batch.refresh_metadata()
        asked = {row: live[key] for row, key in enumerate(batch.req_ids) if live[key].sampling_params.extra_args}
        assert set(processor._requests) == set(asked)
        for row, cached in asked.items():
            request, output = processor._requests[row]
            assert request == request_of(cached.sampling_params)
            assert output is cached.output_token_ids
        before = torch.randn(batch.num_reqs, VOCABULARY)
        after = processor.apply(before.clone())
        for row in range(batch.num_reqs):
            if row not in asked:
                assert torch.equal(after[row], before[row])
                continue
            number, position = int(batch.req_ids[row]), len(asked[row].output_token_ids)
            drawn = od.top_k(number).sample(before[row], seed=number, position=position).tokens[0]
            assert after[row].argmax() == drawn
        for cached in live.values():
            cached.output_token_ids.append(5)


# ---- V2: real request state and context, rows of requests in slots ----


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Build the processor as Model Runner V2 does, by its loader."""
    # The buffers that pinned memory would hold on a machine with a GPU; vLLM has others for those without.
    monkeypatch.setattr(buffer_utils, "is_uva_available", lambda: False)
    slots = 8
    states = RequestState(
        max_num_reqs=slots, max_model_len=64, max_num_batched_tokens=64, num_speculative_steps=2,
        vocab_size=VOCABULARY, device=CPU,
    )  # fmt: skip
    (processor,) = build_custom_logits_processors(VllmConfig(), states, False, [NAME])
    assert isinstance(processor, OptdecodeLogitsProcessor)
    return states, processor


def context(slots: list[int], last: list[int], rows_each: list[int] | None = None) -> LogitsContext:
    """Lay out a step: for each request its slot, the position of its first row and how many rows it has."""
    counts = rows_each or [1] * len(slots)
    expanded = np.repeat(slots, counts)
    local = np.concatenate([np.arange(count) for count in counts])
    positions = np.repeat(last, counts) + local
    return LogitsContext(
        expanded_idx_mapping=torch.from_numpy(expanded.astype(np.int32)),
        idx_mapping=torch.tensor(slots, dtype=torch.int32),
        idx_mapping_np=np.array(slots, dtype=np.int32),
        expanded_local_pos=torch.from_numpy(local.astype(np.int32)),
        input_ids=torch.zeros(len(expanded), dtype=torch.int32),
        pos=torch.from_numpy(positions.astype(np.int64)),
        seq_lens_upper_bound_np=np.array(last, dtype=np.int32) + 1,
    )


def test_v2_has_every_method_of_the_contract(runner: Runner) -> None:
    _, processor = runner
    for name in vars(V2):
        if not name.startswith("_"):
            assert callable(getattr(processor, name))
    assert LogitsProcRequestState.__dataclass_fields__.keys() >= {"prompt_len"}
    assert processor.apply_staged_writes() is None


def test_v2_rows_follow_their_slots_and_slots_are_taken_again(runner: Runner) -> None:
    states, processor = runner
    prompts = {0: 4, 3: 2, 5: 7, 6: 1}
    asked = {
        0: asks("top_k(9)", optdecode_seed=11), 3: asks("entmax(1.5)"), 5: SamplingParams(temperature=0.5),
        6: asks("top_p(0.8)", optdecode_seed=12),
    }  # fmt: skip
    for slot, length in prompts.items():
        states.prompt_len.np[slot] = length
        assert processor.add_request(slot, asked[slot]) is (slot != 5)
    order, last = [5, 3, 0, 6], [9, 1, 3, 4]
    before = torch.randn(4, VOCABULARY)
    after = processor.apply(before.clone(), context(order, last))
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], od.entmax(1.5)(before[1]).log_probs)
    assert after[2].argmax() == od.top_k(9).sample(before[2], seed=11, position=0).tokens[0]
    assert after[3].argmax() == od.top_p(0.8).sample(before[3], seed=12, position=4).tokens[0]
    # A plain request takes slot 0, one of ours slot 5; nothing says that the others are gone.
    assert not processor.add_request(0, SamplingParams())
    assert processor.add_request(5, asks("greedy()"))
    before = before[:2]
    after = processor.apply(before.clone(), context([0, 5], [3, 9]))
    assert torch.equal(after[0], before[0])
    assert torch.isneginf(after[1]).sum() == VOCABULARY - 1


def test_v2_rows_of_draft_tokens_have_positions_of_their_own(runner: Runner) -> None:
    states, processor = runner
    states.prompt_len.np[2] = 3
    processor.add_request(2, asks("softmax()", optdecode_seed=21))
    processor.add_request(4, SamplingParams())
    before = torch.randn(5, VOCABULARY)
    after = processor.apply(before.clone(), context([4, 2], [6, 2], [2, 3]))
    assert torch.equal(after[:2], before[:2])
    for local in range(3):
        assert after[2 + local].argmax() == od.softmax().sample(before[2 + local], seed=21, position=local).tokens[0]


def test_v2_leaves_batches_of_plain_requests_alone(runner: Runner) -> None:
    _, processor = runner
    processor.add_request(1, asks("greedy()"))
    processor.add_request(2, SamplingParams())
    before = torch.randn(1, VOCABULARY)
    assert processor.apply(before, context([2], [4])) is before
