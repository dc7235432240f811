"""What the adapters share: draws of rows with their own seeds, couplings, budgets and masks; ONNX names."""

from types import SimpleNamespace

import numpy as np
import pytest

import optdecode as od
from optdecode.integrations._onnx_model import OnnxModel
from optdecode.integrations._rows import RowDraws, one_per_row, token_list, warn_of_failures

BEST = od.best_of_k(8, beta_bar=5.0, lam=1.0)
NONE = np.zeros((6, 0), dtype=np.int64)
ALL = np.arange(6)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32) * 2


class TestRowDraws:
    def test_rows_are_drawn_as_if_alone(self, logits):
        decoders = [od.softmax(), od.top_k(3)]
        seeds = od.row_seeds(4, 6)
        step = RowDraws(decoders, 6, 3, seed=4).draw(logits, ALL, np.zeros((6, 5), dtype=np.int64))
        for row in range(6):
            alone = decoders[row // 3].sample(logits[row], seed=int(seeds[row]), position=5)
            assert step.tokens[row] == alone.tokens[0]
            assert step.log_probs[row] == alone.log_probs[0]

    def test_some_rows(self, logits):
        rows = RowDraws(od.softmax(), 6, 2, seed=4)
        some = np.array([1, 4])
        np.testing.assert_array_equal(
            rows.draw(logits[some], some, NONE).tokens, rows.draw(logits, ALL, NONE).tokens[some]
        )

    def test_systematic(self, logits):
        same = np.repeat(logits[:2], 3, axis=0)
        step = RowDraws(od.softmax(), 6, 3, seed=4, coupling="systematic").draw(same, ALL, NONE)
        for prompt, seed in enumerate(od.row_seeds(4, 2)):
            drawn = od.softmax().sample(logits[prompt], seed=int(seed), n=3, coupling="systematic")
            np.testing.assert_array_equal(step.tokens[3 * prompt : 3 * prompt + 3], drawn.tokens)

    def test_arithmetic_codes(self, logits):
        """One a prompt: the draws of each prompt's own codes, ended rows left out, masks and budgets in place."""
        codes = [od.ArithmeticCodes(3, seed) for seed in (5, 6)]
        own = [one.copy() for one in codes]
        allowed = np.random.default_rng(1).random((6, 40)) < 0.5
        rows = RowDraws([BEST, od.softmax()], 6, 3, coupling=codes, mask=lambda tokens, live: allowed)
        tokens = NONE
        for live in (ALL, ALL, np.array([0, 2, 3]), np.array([4])):
            step = rows.draw(logits[live], live, tokens)
            budgets = np.zeros(6, dtype=int)
            budgets[live] = [sum(np.array_equal(tokens[a], tokens[b]) for b in live if a // 3 == b // 3) for a in live]
            for place, row in enumerate(live):
                budget = {"budget": budgets[row : row + 1]} if row < 3 else {}
                part, decoder = own[row // 3].take([row % 3]), BEST if row < 3 else od.softmax()
                alone = decoder.sample(logits[row : row + 1], coupling=part, mask=allowed[row], **budget)
                assert step.tokens[place] == alone.tokens[0, 0]
                assert step.log_probs[place] == alone.log_probs[0, 0]
            column = np.full(6, -1)
            column[live] = step.tokens
            tokens = np.column_stack([tokens, column])
        assert codes == own
        assert [one.steps.tolist() for one in codes] == [[3, 2, 3], [3, 3, 2]]
        one = od.ArithmeticCodes(6, 1)
        first = od.softmax().sample(logits, coupling=one.copy()).tokens.ravel()
        np.testing.assert_array_equal(RowDraws(od.softmax(), 6, 6, coupling=one).draw(logits, ALL, NONE).tokens, first)

    def test_arithmetic_codes_and_rows_without_a_distribution(self, logits):
        logits = logits.copy()
        logits[1] = np.nan
        codes = od.ArithmeticCodes(6, 1)
        rows = RowDraws(od.softmax(), 6, 6, coupling=codes, on_failure="mark")
        with pytest.warns(RuntimeWarning, match="row 1: NAN_SCORES"):
            step = rows.draw(logits, ALL, NONE)
        assert (step.tokens < 0).tolist() == [False, True, False, False, False, False]
        assert codes.steps.tolist() == [1, 0, 1, 1, 1, 1]
        with pytest.raises(od.ConvergenceError, match="row 1: NAN_SCORES"):
            RowDraws(od.softmax(), 6, 6, coupling=codes).draw(logits, ALL, NONE)

    @pytest.mark.parametrize("prefix_budget", [True, False])
    def test_budgets(self, logits, prefix_budget):
        tokens = np.array([[1], [1], [2], [1], [1], [1]])
        live = np.array([0, 1, 2, 3, 5])
        step = RowDraws(BEST, 6, 3, seed=4, prefix_budget=prefix_budget).draw(logits[live], live, tokens, log_q=True)
        budgets = [2, 2, 1, 2, 2] if prefix_budget else [8] * 5
        for index, budget in enumerate(budgets):
            expected = BEST(logits[live[index]], budget=budget).log_probs
            np.testing.assert_allclose(step.log_q[index], expected, rtol=1e-6)

    def test_one_sequence_a_prompt_keeps_the_budget(self, logits):
        step = RowDraws(BEST, 6, seed=4).draw(logits, ALL, NONE, log_q=True)
        np.testing.assert_allclose(step.log_q, BEST(logits).log_probs, rtol=1e-6)

    def test_masks(self, logits):
        seen = []

        def mask(tokens, live):
            seen.append((tokens.shape, live.tolist()))
            return np.array([[0b1001]] * 6, dtype=np.int32)

        live = np.array([1, 5])
        step = RowDraws(od.softmax(3.0), 6, seed=4, mask=mask).draw(logits[live], live, NONE, log_q=True)
        assert seen == [((6, 0), [1, 5])], "asked once a step: grammars advance when they are"
        assert np.isin(step.tokens, [0, 3]).all()
        assert (np.isfinite(step.log_q).sum(axis=1) == 2).all()

    def test_failures(self, logits):
        logits[2, 1] = np.nan
        live = np.array([1, 2, 4])
        with pytest.raises(od.ConvergenceError, match="row 2: NAN_SCORES"):
            RowDraws(od.top_k(3), 6).draw(logits[live], live, NONE)
        with pytest.warns(RuntimeWarning, match=r"position 0.*row 2: NAN_SCORES"):
            step = RowDraws(od.top_k(3), 6, on_failure="mark").draw(logits[live], live, NONE, log_q=True)
        assert (step.tokens < 0).tolist() == [False, True, False]
        assert step.status.tolist() == [0, 0, 3, 0, 0, 0]
        np.testing.assert_array_equal(step.log_q[1], logits[2])

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"siblings": 4}, od.ShapeError, "groups of 4"),
            ({"siblings": 0}, od.ProblemError, "siblings must be"),
            ({"decoder": [od.greedy()] * 4}, od.ShapeError, "got 4 for 6 rows"),
            ({"coupling": "gumbel"}, od.ProblemError, "coupling must be one of"),
            (
                {"coupling": od.ArithmeticCodes(3, 1), "siblings": 3},
                od.ShapeError,
                r"2 prompts, of 3 .* got 1, of \[3\]",
            ),
            ({"coupling": [od.ArithmeticCodes(2, 1)] * 2, "siblings": 3}, od.ShapeError, r"got 2, of \[2, 2\]"),
            ({"coupling": [od.ArithmeticCodes(3, 1), "iid"], "siblings": 3}, od.ProblemError, "item 1 is 'iid'"),
            ({"coupling": od.ArithmeticCodes(6, 1), "siblings": 6, "seed": 1}, od.ProblemError, "which have seeds"),
            ({"seed": [1, 2, 3]}, od.ShapeError, "seed must be"),
            ({"seed": -1}, od.ProblemError, "seed must be"),
            ({"mask": np.ones(4, dtype=bool)}, od.ProblemError, "mask must be a callable"),
        ],
    )
    def test_bad_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            RowDraws(**{"decoder": od.greedy(), "rows": 6} | arguments)


def test_decoders_expand_over_neighbours():
    a, b = od.greedy(), od.softmax()
    assert one_per_row([a, b], 4) == [a, a, b, b]
    with pytest.raises(od.ShapeError):
        one_per_row([a, b], 3)


@pytest.mark.parametrize("tokens", [-1, [], [[1]], [1.5], "ab", [3, -2]])
def test_token_lists(tokens):
    assert token_list("eos", 3) == [3]
    assert token_list("eos", [3, 4]) == [3, 4]
    with pytest.raises(od.ProblemError, match="eos must be a token id or several"):
        token_list("eos", tokens)


def test_one_warning_names_the_rows():
    warn_of_failures([0, 1], "never")
    with pytest.warns(RuntimeWarning, match=r"^left \(row 1: NAN_SCORES; row 2: INFEASIBLE\)$"):
        warn_of_failures(np.array([0, 3, 2]), "left")


class Session:
    """Names alone."""

    def __init__(self, inputs, outputs):
        self._inputs = [SimpleNamespace(name=name, type="tensor(float)", shape=["b", 2, "t", 4]) for name in inputs]
        self._outputs = [SimpleNamespace(name=name) for name in outputs]

    def get_inputs(self):
        return self._inputs

    def get_outputs(self):
        return self._outputs


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["input_ids"], ["logits"]),
        (["past_key_values.0.key"], ["logits", "present.0.key"]),
        (["input_ids", "past_key_values.0.key", "use_cache_branch"], ["logits", "present.0.key"]),
        (["input_ids", "past_key_values.0.key"], ["logits", "present.0.value"]),
        (["input_ids", "past_key_values.0.key"], ["scores", "present.0.key"]),
    ],
)
def test_sessions_with_other_names_are_refused(inputs, outputs):
    with pytest.raises(od.ProblemError, match=r"OnnxModel: needs the inputs.*got"):
        OnnxModel(Session(inputs, outputs))


@pytest.mark.parametrize("start", ["present", "present_key_values"])
def test_sessions_with_the_usual_names_are_taken(start):
    inputs = ["input_ids", "past_key_values.0.key", "past_key_values.0.value"]
    model = OnnxModel(Session(inputs, ["logits", f"{start}.0.value", f"{start}.0.key"]))
    assert model._outputs == ["logits", f"{start}.0.key", f"{start}.0.value"]
    with pytest.raises(od.ProblemError, match="attention_mask"):
        model.start([[1, 2], [3]])


def test_positions_count_real_tokens_and_rows_of_the_cache_stay_together():
    fed = []

    class Recording(Session):
        def run(self, names, feeds):
            fed.append(feeds)
            rows, total = feeds["attention_mask"].shape
            return [np.zeros((rows, feeds["input_ids"].shape[1], 9), dtype=np.float32), np.zeros((rows, 2, total, 4))]

    session = Recording(
        ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key"], ["logits", "present.0.key"]
    )
    for entry in session.get_inputs()[:3]:
        entry.type = "tensor(int32)"
    logits, cache = OnnxModel(session, pad_token_id=7).start([[1, 2, 3], [4]])
    assert logits.shape == (2, 9)
    _, grown = OnnxModel(session).step(np.array([5]), cache.take(np.array([1])))
    first, second = fed
    assert first["input_ids"].tolist() == [[1, 2, 3], [7, 7, 4]]
    assert first["input_ids"].dtype == np.int32
    assert first["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert first["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert first["past_key_values.0.key"].shape == (2, 2, 0, 4)
    assert second["attention_mask"].tolist() == grown.mask.tolist() == [[0, 0, 1, 1]]
    assert second["position_ids"].tolist() == [[1]]
