"""What requests to serving engines say, and rows rewritten as they say; no engine needed."""

import json

import numpy as np
import pytest
import torch

import optdecode as od
from optdecode.integrations._request_rows import rewrite_rows
from optdecode.integrations._requests import MOST_DRAWS, Request, read_decoder, read_request

DECODERS = [
    od.greedy(), od.softmax(0.7), od.top_k(20), od.top_p(0.9), od.sparsemax(), od.entmax(1.5).subject_to(od.TopK(9)),
    od.best_of_k(8), od.softmax().subject_to(od.Chain(od.TopK(50), od.TopP(0.9))),
]  # fmt: skip


def logits(rows: int = 8, vocabulary: int = 500) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(3).normal(size=(rows, vocabulary)) * 3).astype(np.float32))


def test_a_decoder_comes_as_a_string_a_dictionary_or_its_json() -> None:
    for decoder in DECODERS:
        described = decoder.to_dict()
        forms = [repr(decoder), described, json.dumps(described)]
        assert [read_decoder(form) for form in forms] == [decoder] * 3
    assert read_decoder("top_k(50)") is read_decoder("top_k(50)")


def test_a_request_is_read_beside_the_arguments_of_others() -> None:
    assert read_request(None) is None
    assert read_request({"session": "a", "top": 1}) is None
    assert read_request({"optdecode": "greedy()", "session": "a"}) == Request(od.greedy())
    asked = {"optdecode": "greedy()", "optdecode_seed": 2**64 - 1, "optdecode_coupling": "systematic"}
    assert read_request({**asked, "optdecode_n": 4, "optdecode_index": 3}) == Request(
        od.greedy(), 2**64 - 1, "systematic", 3, 4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optdecode": "topk(5)"}, "unknown name"),
        ({"optdecode": "top_k(0)"}, r"k must be an integer in \[1"),
        ({"optdecode": "top_k"}, "write top_k"),
        ({"optdecode": "{not json"}, "must be JSON"),
        ({"optdecode": {"type": "Sampler"}}, "unknown type 'Sampler'"),
        ({"optdecode": {"type": "TopK", "k": 3}}, "expected the dictionary of a Decoder"),
        ({"optdecode": {"type": "Decoder", "problem": object()}}, "must be JSON"),
        ({"optdecode": od.greedy()}, "must be a decoder string"),
        ({"optdecode": 3}, "must be a decoder string"),
        ({"optdecode": "softmax().subject_to(Allowed([1, 2]))"}, "vocabulary"),
        ({"optdecode": "best_of_k(weights=[1, 2])"}, "vocabulary"),
        ({"optdecode": "Decoder(Problem(0.5 * KL('given')))"}, "anchor"),
        ({"optdecode_seed": 1}, "optdecode_seed needs optdecode"),
        ({"optdecode": "greedy()", "optdecode_seeds": 1}, "optdecode_seeds is no argument.*optdecode_seed"),
        ({"optdecode": "greedy()", "optdecode_index": 1}, "give optdecode_seed too"),
        ({"optdecode": "greedy()", "optdecode_seed": -1}, r"in \[0, 2\*\*64\); got -1"),
        ({"optdecode": "greedy()", "optdecode_seed": 2**64}, "optdecode_seed must be"),
        ({"optdecode": "greedy()", "optdecode_seed": True}, "optdecode_seed must be"),
        ({"optdecode": "greedy()", "optdecode_seed": 1.5}, "optdecode_seed must be"),
        ({"optdecode": "greedy()", "optdecode_seed": 1, "optdecode_coupling": "x"}, "'iid', 'systematic'; got 'x'"),
        ({"optdecode": "greedy()", "optdecode_seed": 1, "optdecode_coupling": "systematic"}, "needs optdecode_n"),
        ({"optdecode": "greedy()", "optdecode_seed": 1, "optdecode_n": 0}, "optdecode_n must be"),
        ({"optdecode": "greedy()", "optdecode_seed": 1, "optdecode_n": 4, "optdecode_index": 4}, r"in \[0, 4\); got 4"),
        ({"optdecode": "greedy()", "optdecode_seed": 1, "optdecode_index": MOST_DRAWS}, "optdecode_index must be"),
    ],
)
def test_a_bad_request_says_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_request(arguments)


def test_rows_become_log_q_or_the_token_drawn_and_others_stay() -> None:
    before = logits(rows=12)
    after = before.clone()
    rows = [0, 1, 3, 4, 6, 7, 9, 10]
    requests = [Request(decoder, None if at % 2 else 40 + at) for at, decoder in enumerate(DECODERS)]
    positions = list(range(5, 13))
    rewrite_rows(after, rows, requests, positions)
    for row, request, position in zip(rows, requests, positions, strict=True):
        if request.seed is None:
            assert torch.equal(after[row], request.decoder(before[row]).log_probs)
        else:
            token = int(request.decoder.sample(before[row], seed=request.seed, position=position).tokens[0])
            assert after[row, token] == 0.0
            assert torch.isneginf(after[row]).sum() == after.shape[1] - 1
    for row in set(range(12)) - set(rows):
        assert torch.equal(after[row], before[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_whole_batches_of_any_type_are_written_in_place(dtype: torch.dtype) -> None:
    before = logits().to(dtype)
    after = before.clone()
    rewrite_rows(after, range(8), [Request(decoder) for decoder in DECODERS], [0] * 8)
    for row, decoder in enumerate(DECODERS):
        assert torch.equal(after[row], decoder(before[row].float()).log_probs.to(dtype))


def test_strided_rows_are_written_in_place() -> None:
    wide = torch.zeros(8, 1000)
    wide[:, ::2] = logits()
    view = wide[:, ::2]
    rewrite_rows(view, range(8), [Request(od.greedy(), 1)] * 8, [0] * 8)
    assert (wide[:, ::2] == 0.0).sum() == 8
    assert (wide[:, 1::2] == 0.0).all()


@pytest.mark.parametrize("coupling", ["iid", "systematic"])
def test_children_make_the_draws_of_one_call(coupling: str) -> None:
    row = logits(rows=1)[0]
    n = 6
    drawn = od.softmax().sample(row, seed=9, position=2, n=n, coupling=coupling).tokens
    # Beside a request of another kind, so that neither is the whole batch.
    requests = [Request(od.softmax(), 9, coupling, index, n) for index in range(n)] + [Request(od.top_k(5), 8)]
    after = row.repeat(n + 1, 1)
    rewrite_rows(after, range(n + 1), requests, [2] * (n + 1))
    assert after.argmax(dim=1)[:n].tolist() == drawn.tolist()
    assert len(set(drawn.tolist())) > 1


def test_a_row_without_a_distribution_is_left_and_warned_of() -> None:
    before = logits(rows=4)
    before[1, 7] = torch.nan
    before[2] = -torch.inf
    for seed in (None, 3):
        after = before.clone()
        with pytest.warns(RuntimeWarning, match="optdecode: row") as caught:
            rewrite_rows(after, range(4), [Request(od.top_p(0.9), seed)] * 4, [0] * 4)
        texts = [str(warning.message) for warning in caught]
        assert len(texts) == 2
        assert "row 1 of the batch has no distribution, NAN_SCORES" in texts[0]
        assert "row 2 of the batch has no distribution, INFEASIBLE" in texts[1]
        assert torch.equal(after[1].isnan(), before[1].isnan())
        assert torch.equal(after[2], before[2])
        for row in (0, 3):
            alone = before[row : row + 1].clone()
            rewrite_rows(alone, [0], [Request(od.top_p(0.9), seed)], [0])
            assert torch.equal(after[row], alone[0])


def test_what_is_forbidden_stays_forbidden() -> None:
    before = logits()
    before[:, ::3] = -torch.inf
    for seed in (None, 11):
        after = before.clone()
        rewrite_rows(after, range(8), [Request(decoder, seed) for decoder in DECODERS], [0] * 8)
        assert torch.isneginf(after[:, ::3]).all()


def test_no_rows_is_no_work() -> None:
    after = logits()
    rewrite_rows(after, [], [], [])
    assert torch.equal(after, logits())
