"""optdecode_generate: the draw inside transformers' `generate`, on the embedded checkpoint."""

import re

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

import optdecode as od
from engines import examples, grammars
from engines.hf_model import EOS, PROMPTS, generated, inputs, model, tokenizer
from optdecode.integrations.transformers import neutral_generation_kwargs, optdecode_generate
from optdecode.models import EmbeddedModel

pytestmark = pytest.mark.engine

NEUTRAL = neutral_generation_kwargs()
RETURN = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
BEST = od.best_of_k(8, beta_bar=0.5, lam=1.0)


def run(decoder, prompts=PROMPTS, **arguments):
    arguments = {"max_new_tokens": 40} | arguments
    return model().generate(
        **inputs(prompts), **NEUTRAL, custom_generate=optdecode_generate, decoder=decoder, **arguments
    )


def tokens_of(decoder, prompts=PROMPTS, **arguments):
    return generated(run(decoder, prompts, **arguments), inputs(prompts))


@torch.no_grad()
def by_hand(decoders, seeds, siblings=1, steps=40, edit=lambda ids, logits: logits, stop=(EOS,), budgets=False):
    """The loop that `optdecode_generate` stands for, written out: one `sample` a row and step, no sequence helped."""
    given = inputs(PROMPTS)
    ids = given["input_ids"].repeat_interleave(siblings, 0)
    attention = given["attention_mask"].repeat_interleave(siblings, 0)
    start, past, done = ids.shape[1], None, np.zeros(len(ids), dtype=bool)
    for position in range(steps):
        places = (attention.cumsum(1) - 1).clamp(min=0)
        fed = slice(None) if past is None else slice(-1, None)
        output = model()(
            ids[:, fed], attention_mask=attention, position_ids=places[:, fed], past_key_values=past, use_cache=True
        )
        past = output.past_key_values
        logits = edit(ids, output.logits[:, -1].float())
        token = np.zeros(len(ids), dtype=np.int64)
        for row in np.flatnonzero(~done):
            more = {}
            if budgets:
                group = range(row // siblings * siblings, row // siblings * siblings + siblings)
                same = [one for one in group if not done[one] and torch.equal(ids[one, start:], ids[row, start:])]
                more["budget"] = len(same)
            drawn = decoders[row // siblings].sample(logits[row], seed=int(seeds[row]), position=position, **more)
            token[row] = int(drawn.tokens[0])
        ids = torch.cat([ids, torch.from_numpy(token)[:, None]], 1)
        attention = torch.cat([attention, torch.ones(len(ids), 1, dtype=attention.dtype)], 1)
        done |= np.isin(token, stop)
        if done.all():
            break
    return ids[:, start:].numpy()


class TestTokens:
    @pytest.mark.parametrize(
        "decoder",
        [od.softmax(1.2), od.top_p(0.95), od.sparsemax(), BEST, od.softmax().subject_to(
            od.Chain(od.TopK(30), od.TopP(0.9)))],
        ids=["softmax", "top_p", "sparsemax", "best_of_k", "chain"],
    )  # fmt: skip
    def test_equal_a_loop_written_by_hand(self, decoder):
        seeds = od.row_seeds(5, 2 * len(PROMPTS))
        ours = tokens_of(decoder, seed=5, num_return_sequences=2, prefix_budget=False)
        np.testing.assert_array_equal(ours, by_hand([decoder] * len(PROMPTS), seeds, siblings=2))

    @pytest.mark.parametrize("decoder", [od.greedy(), od.top_p(0.95), od.softmax(), BEST], ids=repr)
    def test_equal_the_embedded_models(self, decoder):
        """The same network in ONNX Runtime: logits differ by rounding (< 1e-4), which these draws survive."""
        there = EmbeddedModel().generate(PROMPTS, decoder, samples=2, seed=9)
        ours = tokens_of(decoder, seed=9, num_return_sequences=2, prefix_budget=False)
        np.testing.assert_array_equal(ours, there.tokens)

    def test_greedy_is_the_engines_greedy(self):
        theirs = model().generate(**inputs(), do_sample=False, max_new_tokens=40)
        assert torch.equal(run(od.greedy()), theirs)

    def test_a_row_depends_on_nothing_but_itself(self):
        """Other neighbours, another order, less padding on the left: the same tokens."""
        decoder, seeds = od.softmax(1.1), od.row_seeds(1, len(PROMPTS))
        together = tokens_of(decoder, seed=seeds)
        assert len({len(tokenizer()(prompt).input_ids) for prompt in PROMPTS}) > 2, "prompts of several lengths"
        some = [7, 2, 11]
        few = tokens_of(decoder, [PROMPTS[i] for i in some], seed=seeds[some])
        np.testing.assert_array_equal(few, together[some, : few.shape[1]])
        alone = tokens_of(decoder, [PROMPTS[4]], seed=seeds[4:5])
        np.testing.assert_array_equal(alone[0], together[4, : alone.shape[1]])

    def test_seeds(self):
        first = tokens_of(od.softmax(), seed=3)
        np.testing.assert_array_equal(first, tokens_of(od.softmax(), seed=od.row_seeds(3, len(PROMPTS))))
        torch.manual_seed(123)  # the engine's generator has no say
        np.testing.assert_array_equal(first, tokens_of(od.softmax(), seed=3))
        other = tokens_of(od.softmax(), seed=4)
        assert first.shape != other.shape or (first != other).any()
        assert not np.array_equal(tokens_of(od.softmax(2.0)), tokens_of(od.softmax(2.0))), "no seed: fresh entropy"

    def test_a_decoder_a_prompt(self):
        decoders = [od.greedy(), od.top_k(3), od.softmax()] * 4
        seeds = od.row_seeds(8, 24)
        ours = tokens_of(decoders, seed=8, num_return_sequences=2)
        np.testing.assert_array_equal(ours, by_hand(decoders, seeds, siblings=2))


class TestSiblings:
    def test_budgets_are_the_siblings_with_the_same_prefix(self):
        seeds, strong = od.row_seeds(2, 4 * len(PROMPTS)), od.best_of_k(8, beta_bar=5.0, lam=1.0)
        ours = tokens_of(strong, seed=2, num_return_sequences=4)
        np.testing.assert_array_equal(ours, by_hand([strong] * len(PROMPTS), seeds, siblings=4, budgets=True))
        fixed = tokens_of(strong, seed=2, num_return_sequences=4, prefix_budget=False)
        assert fixed.shape != ours.shape or (fixed != ours).any(), "the budgets matter here"

    def test_systematic_spreads_siblings_over_q(self):
        n, decoder = 16, od.softmax(1.5)
        output = run(decoder, PROMPTS[:3], seed=1, num_return_sequences=n, coupling="systematic", max_new_tokens=1,
                     **RETURN)  # fmt: skip
        first = generated(output, inputs(PROMPTS[:3])).reshape(3, n)
        for prompt in range(3):
            expected = n * output.scores[0][prompt * n].exp().double().numpy()
            counts = np.bincount(first[prompt], minlength=expected.size)
            assert (counts >= np.floor(expected - 1e-3)).all()
            assert (counts <= np.ceil(expected + 1e-3)).all()

    def test_systematic_is_the_draw_of_the_library(self):
        n, seeds = 4, od.row_seeds(6, len(PROMPTS))
        ours = tokens_of(od.softmax(), seed=6, num_return_sequences=n, coupling="systematic", **RETURN)
        output = run(od.softmax(), seed=6, num_return_sequences=n, coupling="systematic", **RETURN)
        for position, logits in enumerate(output.logits):
            for row in range(len(logits)):
                if position and (ours[row, :position] == EOS).any():
                    continue
                drawn = od.softmax().sample(
                    logits[row], seed=int(seeds[row // n]), position=position, n=n, coupling="systematic"
                )
                assert int(drawn.tokens[row % n]) == ours[row, position]

    def test_the_first_sibling_is_what_it_would_be_alone(self):
        seeds = od.row_seeds(6, len(PROMPTS))
        coupled = tokens_of(od.softmax(), seed=seeds, num_return_sequences=3, coupling="systematic")[::3]
        alone = tokens_of(od.softmax(), seed=seeds)
        width = min(coupled.shape[1], alone.shape[1])
        np.testing.assert_array_equal(coupled[:, :width], alone[:, :width])


class TestTheLoopAroundUs:
    def test_several_end_tokens(self):
        plus = tokenizer().convert_tokens_to_ids("+")
        ours = tokens_of(od.top_p(0.95), seed=5, eos_token_id=[EOS, plus])
        expected = by_hand([od.top_p(0.95)] * len(PROMPTS), od.row_seeds(5, len(PROMPTS)), stop=(EOS, plus))
        np.testing.assert_array_equal(ours, expected)
        for row in ours:
            end = np.flatnonzero(np.isin(row, [EOS, plus]))
            assert not len(end) or (row[end[0] + 1 :] == 0).all()
        assert (ours == plus).any()

    def test_cut_at_max_new_tokens(self):
        assert tokens_of(od.softmax(), seed=5, max_new_tokens=4).shape == (len(PROMPTS), 4)

    def test_stopping_criteria_of_the_user(self):
        class AfterPlus(StoppingCriteria):
            def __call__(self, input_ids, scores, **kwargs):
                return input_ids[:, -1] == tokenizer().convert_tokens_to_ids("+")

        free = tokens_of(od.top_p(0.95), seed=5)
        ours = tokens_of(od.top_p(0.95), seed=5, stopping_criteria=StoppingCriteriaList([AfterPlus()]))
        plus = tokenizer().convert_tokens_to_ids("+")
        assert (free == plus).any()
        for row, whole in zip(ours, free, strict=True):
            ends = np.flatnonzero(np.isin(whole, [plus, EOS]))
            end = ends[0] + 1 if len(ends) else len(whole)
            np.testing.assert_array_equal(row[:end], whole[:end])
            assert (row[end:] == 0).all()

    def test_the_streamer_gets_every_token(self):
        class Collect:
            def __init__(self):
                self.parts, self.ended = [], 0

            def put(self, value):
                self.parts.append(value.reshape(-1))

            def end(self):
                self.ended += 1

        streamer = Collect()
        whole = run(od.softmax(), PROMPTS[:1], seed=5, token_streamer=streamer)
        assert torch.equal(torch.cat(streamer.parts), whole[0])
        assert len(streamer.parts) == 1 + whole.shape[1] - inputs(PROMPTS[:1])["input_ids"].shape[1]
        assert streamer.ended == 1
        text = TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=5)
        run(od.softmax(), PROMPTS[:1], seed=5, token_streamer=text)
        new = whole[0, inputs(PROMPTS[:1])["input_ids"].shape[1] :]
        assert "".join(text).split() == tokenizer().decode(new).split()

    def test_processors_of_generate_act_first(self):
        penalty = RepetitionPenaltyLogitsProcessor(1.3)
        bans = NoBadWordsLogitsProcessor([[12], [13]], torch.tensor([EOS]))
        ours = tokens_of(
            od.top_p(0.9), seed=5, bad_words_ids=[[12], [13]], logits_processor=LogitsProcessorList([penalty])
        )
        expected = by_hand(
            [od.top_p(0.9)] * len(PROMPTS), od.row_seeds(5, len(PROMPTS)),
            edit=lambda ids, logits: bans(ids, penalty(ids, logits)),
        )  # fmt: skip
        np.testing.assert_array_equal(ours, expected)
        assert not np.isin(ours, [12, 13]).any()

    def test_without_a_cache_and_with_a_static_one(self):
        expected = tokens_of(od.top_p(0.9), seed=5, max_new_tokens=12)
        for cache in ({"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}):
            ours = tokens_of(od.top_p(0.9), seed=5, max_new_tokens=12, **cache)
            np.testing.assert_array_equal(ours, expected)

    @pytest.mark.parametrize("decoder", [od.top_p(0.9), BEST, od.entmax(1.5)], ids=["top_p", "best_of_k", "entmax"])
    def test_scores_are_log_q(self, decoder):
        output = run(decoder, seed=5, num_return_sequences=2, prefix_budget=False, **RETURN)
        ours = generated(output, inputs())
        past_end = np.cumsum(ours == EOS, axis=1) - (ours == EOS) > 0
        for position, (scores, logits) in enumerate(zip(output.scores, output.logits, strict=True)):
            live = ~past_end[:, position]
            torch.testing.assert_close(scores[live], decoder(logits[live]).log_probs)
        total = model().compute_transition_scores(output.sequences, output.scores)[torch.from_numpy(~past_end)]
        assert torch.isfinite(total).all()
        assert (total <= 0).all()


class TestGrammar:
    @pytest.mark.parametrize("name", grammars.ENGINES)
    def test_a_grammar_drives_generate(self, name):
        engine = grammars.ENGINES[name](2 * len(PROMPTS), len(grammars.WORDS) - 64)
        output = run(
            od.softmax(2.0), seed=5, num_return_sequences=2, mask=grammars.driver(engine), max_new_tokens=12, **RETURN
        )
        ours = generated(output, inputs())
        for row in ours:
            words = [grammars.WORDS[token] for token in row if token]
            assert words.pop() == "<eos>"
            assert re.fullmatch(grammars.EXPRESSION, "".join(words))
        allowed = torch.isfinite(output.scores[0]).sum(-1)
        assert (allowed == 3).all(), "log q knows the mask"
        assert len({tuple(row) for row in ours}) > len(PROMPTS)

    def test_a_bool_mask_for_all_rows(self):
        allowed = np.zeros(1024, dtype=bool)
        allowed[[5, 6, EOS]] = True
        assert np.isin(tokens_of(od.softmax(), seed=1, mask=lambda tokens, live: allowed), [0, 5, 6, EOS]).all()


class PoisonRow(LogitsProcessor):
    """NaN in one row from one length on."""

    def __init__(self, row, length):
        self.row, self.length = row, length

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        if input_ids.shape[1] >= self.length:
            scores[self.row, 3] = torch.nan
        return scores


class TestFailures:
    def poisoned(self, **arguments):
        start = inputs()["input_ids"].shape[1]
        return tokens_of(od.top_p(0.95), seed=5, logits_processor=LogitsProcessorList([PoisonRow(4, start + 3)]),
                         **arguments)  # fmt: skip

    def test_a_row_without_a_distribution_raises_and_is_named(self):
        with pytest.raises(od.ConvergenceError, match="row 4: NAN_SCORES"):
            self.poisoned()

    def test_or_ends_alone(self):
        healthy = tokens_of(od.top_p(0.95), seed=5)
        with pytest.warns(RuntimeWarning, match=r"position 3: .*row 4: NAN_SCORES") as caught:
            ours = self.poisoned(on_failure="mark")
        assert len([one for one in caught if "NAN_SCORES" in str(one.message)]) == 1
        others = np.arange(len(PROMPTS)) != 4
        np.testing.assert_array_equal(ours[others], healthy[others, : ours.shape[1]])
        np.testing.assert_array_equal(ours[4, :3], healthy[4, :3])
        assert (ours[4, 3:] == 0).all()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"top_k": 50}, od.ProblemError, r"'top_k': 50.*neutral_generation_kwargs"),
            ({"temperature": 0.5}, od.ProblemError, r"'temperature': 0.5"),
            ({"num_beams": 2}, od.ProblemError, "num_beams=2"),
            ({"coupling": "antithetic"}, od.ProblemError, "coupling must be one of"),
            ({"on_failure": "ignore"}, od.ProblemError, "on_failure must be one of"),
            ({"seed": [1, 2]}, od.ShapeError, "seed must be a scalar or have"),
            ({"mask": np.ones(1024, dtype=bool)}, od.ProblemError, "mask must be a callable"),
            ({"decoder": od.best_of_k(anchor="given")}, od.ProblemError, "pass anchor="),
        ],
    )
    def test_bad_arguments(self, arguments, error, message):
        given = {"decoder": od.greedy(), "max_new_tokens": 3} | NEUTRAL | arguments
        with pytest.raises(error, match=message):
            model().generate(**inputs(), custom_generate=optdecode_generate, **given)

    def test_sampling_parameters_of_a_checkpoint_are_refused_too(self):
        with pytest.raises(od.ProblemError, match="'top_k': 50"):
            model().generate(
                **inputs(), custom_generate=optdecode_generate, decoder=od.greedy(), do_sample=True, max_new_tokens=3
            )


def test_the_example_runs():
    printed = examples.output_of("transformers_generate.py")
    assert len(re.findall(r"prompt [01], sample [0-3]: ", printed)) == 8
    assert "sparsemax: [" in printed
    assert "support=Chain(TopK(k=20), TopP(p=0.8)), temperature=0.7" in printed
