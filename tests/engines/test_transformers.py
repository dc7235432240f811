"""OptdecodeLogitsProcessor and from_generation_config beside transformers' own warpers, on the embedded checkpoint."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import TopHLogitsWarper, TypicalLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

import optdecode as od
from engines.hf_model import PROMPTS, generated, inputs, model, total_variation
from optdecode.integrations import _generation_config as fields
from optdecode.integrations.transformers import (
    OptdecodeLogitsProcessor,
    check_generation_config,
    from_generation_config,
    neutral_generation_kwargs,
    optdecode_generate,
)

pytestmark = pytest.mark.engine

#: Every χ² test below rejects a right implementation with this probability over the choice of its seed, which is fixed.
ERROR_RATE = 1e-3
RETURN = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
NEUTRAL = neutral_generation_kwargs()
SINGLES = [{"top_k": 5}, {"top_k": 50}, {"top_p": 0.5}, {"top_p": 0.95}, {"min_p": 0.02}, {"min_p": 0.3}]
SINGLES += [{"typical_p": 0.2}, {"typical_p": 0.9}]
CHAINS = [
    {"temperature": t, "top_k": k, "top_p": p} | rest
    for (t, k, p), rest in itertools.product(
        [(0.7, 20, 0.9), (1.5, 50, 0.6), (1.3, 0, 0.97), (1.0, 7, 1.0)],
        [
            {},
            {"min_p": 0.05},
            {"epsilon_cutoff": 0.01},
            {"eta_cutoff": 0.02},
            {"min_p": 0.01, "eta_cutoff": 3e-3},
            {"typical_p": 0.6},
            {"min_p": 0.01, "typical_p": 0.85, "epsilon_cutoff": 0.01},
        ],
    )
]


def processors(decoder):
    return LogitsProcessorList([OptdecodeLogitsProcessor(decoder)])


def steps(output):
    """Raw logits and processed scores of all steps, (rows, V) each."""
    return torch.cat(output.logits), torch.cat(output.scores)


def decided(config, logits, scores):
    """Rows that rounding and ties leave no choice in.

    The engine's own warpers, in float64 and with every threshold moved by 1e-6 either way (what sums may be off by),
    keep what they kept in float32; and nothing ties with the last token kept, as the engine keeps all of a tie.
    """
    kept = torch.isfinite(scores)
    same = torch.ones(len(logits), dtype=bool)
    for factor in (1 - 1e-6, 1 + 1e-6):
        moved = {name: getattr(config, name) for name in fields.WARPERS}
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            moved[name] = moved[name] and (moved[name] * factor if moved[name] != 1 else 1.0)
        exact = logits.double()
        for warper in model()._get_logits_processor(GenerationConfig(**NEUTRAL | moved)):
            exact = warper(None, exact)
        same &= (torch.isfinite(exact) == kept).all(-1)
    last = torch.where(kept, scores, torch.inf).amin(-1, keepdim=True)
    return same & ((scores == last).sum(-1) == 1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("mass", [0.05, 0.2, 0.5, 0.9, 0.99])
def test_typical_is_transformers_own(mass, temperature):
    """Their warper as it stands, in float64, on rows of which many are typical without their best token."""
    rows = 3.0 * torch.randn(300, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rows[::3] *= 0.3
    theirs = TypicalLogitsWarper(mass)(None, rows / temperature)
    ours = od.softmax(temperature).subject_to(od.Typical(mass))(rows)
    assert torch.equal(torch.isfinite(theirs), ours.support)
    torch.testing.assert_close(theirs.softmax(-1), ours.probs, rtol=1e-9, atol=1e-12)
    without_best = ~ours.support.gather(1, rows.argmax(-1, keepdim=True))
    assert without_best.any() or mass > 0.9


def test_top_h_of_transformers_is_another_rule():
    """It bounds a part of the entropy of the 100 best, where the paper bounds that of the renormalised prefix."""
    row = torch.tensor([[0.4, 0.2, 0.2, 0.1, 0.1]], dtype=torch.float64).log()
    theirs = torch.isfinite(TopHLogitsWarper(0.7)(None, row))[0]
    parts = (-row.exp() * row)[0].cumsum(0)
    assert theirs.tolist() == (parts <= 0.7 * parts[-1]).tolist() == [True, True, True, False, False]
    first = row[0, :3].softmax(-1)
    assert -(first * first.log()).sum() > 0.7 * parts[-1]
    assert od.softmax().subject_to(od.TopH(0.7))(row[0]).support.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("settings", SINGLES + CHAINS, ids=str)
def test_our_distribution_is_the_engines(settings):
    config = GenerationConfig(**NEUTRAL | settings, max_new_tokens=12, **RETURN)
    torch.manual_seed(3)
    output = model().generate(**inputs(), generation_config=config)
    logits, scores = steps(output)
    rows = decided(config, logits, scores)
    assert rows.float().mean() > 0.95, "too few rows to compare"
    decoder = from_generation_config(config)
    assert total_variation(scores[rows].softmax(-1), decoder(logits[rows]).probs) <= 1e-5
    ours = OptdecodeLogitsProcessor(decoder)(None, logits)
    assert total_variation(scores[rows].softmax(-1), ours[rows].softmax(-1)) <= 1e-5
    assert (torch.isfinite(scores) == torch.isfinite(ours))[rows].all()


@pytest.mark.parametrize(
    ("settings", "decoder"),
    [({"top_k": 5}, od.top_k(5)), ({"top_p": 0.9}, od.top_p(0.9)), ({"min_p": 0.1}, od.min_p(0.1))],
    ids=str,
)
def test_the_presets_are_the_configurations(settings, decoder):
    assert from_generation_config(GenerationConfig(**NEUTRAL | settings)) == decoder


@pytest.mark.parametrize(
    "decoder",
    [od.sparsemax(), od.entmax(1.5), od.best_of_k(8, beta_bar=0.5, lam=1.0), od.softmax(0.7)],
    ids=["sparsemax", "entmax", "best_of_k", "softmax"],
)
def test_in_generate_scores_are_log_q(decoder):
    torch.manual_seed(0)
    output = model().generate(**inputs(), **NEUTRAL, logits_processor=processors(decoder), max_new_tokens=10, **RETURN)
    logits, scores = steps(output)
    torch.testing.assert_close(scores, decoder(logits).log_probs)
    drawn = generated(output, inputs())
    chosen = torch.stack(output.scores, 1).gather(2, torch.from_numpy(drawn)[:, :, None])[..., 0]
    assert torch.isfinite(chosen[torch.from_numpy(drawn) != 0]).all()


def test_output_logits_stay_the_models():
    given = inputs()
    ours = model().generate(**given, **NEUTRAL, logits_processor=processors(od.top_k(3)), max_new_tokens=1, **RETURN)
    with torch.no_grad():
        positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        expected = model()(**given, position_ids=positions).logits[:, -1]
    torch.testing.assert_close(ours.logits[0], expected, rtol=1e-4, atol=1e-4)


def test_greedy_is_the_engines_greedy():
    theirs = model().generate(**inputs(), do_sample=False, max_new_tokens=40)
    ours = model().generate(**inputs(), **NEUTRAL, logits_processor=processors(od.greedy()), max_new_tokens=40)
    assert torch.equal(theirs, ours)


@pytest.mark.statistical
@pytest.mark.parametrize("settings", [{"top_k": 12}, {"temperature": 1.4, "top_k": 30, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("who", ["the engine draws from q", "optdecode_generate"])
def test_draws_follow_the_engines_distribution(who, settings):
    draws = 10_000
    config = GenerationConfig(**NEUTRAL | settings)
    given = {name: values[:, :4] for name, values in inputs(PROMPTS[:1]).items()}
    with torch.no_grad():
        logits = model()(**given).logits[:, -1] / 5  # flatter, so that many tokens have a share
    law = logits
    for warper in model()._get_logits_processor(config):
        law = warper(None, law)
    law = law.softmax(-1)[0].double().numpy()
    decoder = from_generation_config(config)
    if who == "optdecode_generate":
        ours = {"custom_generate": optdecode_generate, "decoder": decoder, "seed": 13}
        ours["logits_processor"] = LogitsProcessorList([Divide(5.0)])
    else:
        ours = {"logits_processor": LogitsProcessorList([Divide(5.0), OptdecodeLogitsProcessor(decoder)])}
    torch.manual_seed(11)
    output = model().generate(**given, **NEUTRAL, **ours, max_new_tokens=1, num_return_sequences=draws)
    counts = np.bincount(output[:, -1].numpy(), minlength=law.size)
    assert chi_square(counts, law) > ERROR_RATE
    assert chi_square(counts, np.where(law > 0, law**1.5, 0)) < ERROR_RATE, "the test sees a wrong law"


class Divide(LogitsProcessor):
    def __init__(self, by):
        self.by = by

    def __call__(self, input_ids, scores):
        return scores / self.by


def chi_square(counts, law):
    """The p-value; cells of less than 5 expected draws are pooled."""
    assert counts[law == 0].sum() == 0
    expected = counts.sum() * law / law.sum()
    large = expected >= 5
    observed = np.append(counts[large], counts[~large].sum())
    predicted = np.append(expected[large], expected[~large].sum())
    kept = predicted > 0
    return scipy.stats.chisquare(observed[kept], predicted[kept], sum_check=False).pvalue


class TestProcessor:
    def test_a_decoder_a_prompt(self):
        decoders = [od.greedy(), od.top_k(2), od.sparsemax()]
        output = model().generate(
            **inputs(PROMPTS[:3]), **NEUTRAL, logits_processor=processors(decoders), max_new_tokens=3,
            num_return_sequences=2, **RETURN,
        )  # fmt: skip
        for step, logits in enumerate(output.logits):
            for row in range(6):
                expected = decoders[row // 2](logits[row]).log_probs
                torch.testing.assert_close(output.scores[step][row], expected)

    def test_a_row_without_a_distribution_keeps_its_logits_and_is_named(self):
        scores = torch.randn(3, 50)
        scores[1, 4] = torch.nan
        with pytest.warns(RuntimeWarning, match=r"row 1: NAN_SCORES"):
            ours = OptdecodeLogitsProcessor(od.top_k(3))(None, scores)
        torch.testing.assert_close(ours[1], scores[1], equal_nan=True)
        torch.testing.assert_close(ours[[0, 2]], od.top_k(3)(scores[[0, 2]]).log_probs)

    def test_types_and_layouts(self):
        scores = torch.randn(50, 4, dtype=torch.float64).T
        ours = OptdecodeLogitsProcessor(od.top_k(3))(None, scores)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, od.top_k(3)(scores).log_probs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("decoder", [None, [], [od.greedy(), 3], "top_k(3)"])
    def test_what_is_no_decoder(self, decoder):
        with pytest.raises((od.ProblemError, TypeError), match=r"decoder must be|not iterable"):
            OptdecodeLogitsProcessor(decoder)

    def test_decoders_that_fit_no_batch(self):
        with pytest.raises(od.ShapeError, match="got 2 for 3 rows"):
            OptdecodeLogitsProcessor([od.greedy()] * 2)(None, torch.zeros(3, 5))

    def test_continuous_batching_drops_it(self):
        ours = OptdecodeLogitsProcessor(od.greedy())
        batching = ContinuousBatchingLogitsProcessorList(
            LogitsProcessorList([ours]), per_request_processors=False, drop_unsupported_processors=True
        )
        assert list(batching.logits_processor) == []


class TestConfig:
    def test_every_field_is_placed(self):
        """A field that transformers adds belongs into one of these tables, or `from_generation_config` misses it."""
        real = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        tables = [fields.DEFAULTS.keys(), fields.REFUSED.keys(), fields.EDITS.keys(), fields.ELSEWHERE]
        assert real == set().union(*tables)

    def test_defaults_are_the_real_ones(self):
        real = GenerationConfig._get_default_generation_params()
        assert {name: real.get(name) for name in fields.DEFAULTS} == fields.DEFAULTS

    def test_neutral_leaves_nothing_after_us(self):
        config, _ = model()._prepare_generation_config(None, **NEUTRAL)
        ours = processors(od.greedy())
        assert list(model()._get_logits_processor(config, logits_processor=ours)) == list(ours)
        check_generation_config(config)

    @pytest.mark.parametrize("name", fields.WARPERS)
    def test_a_warper_is_refused_by_name(self, name):
        value = 30 if name == "top_k" else 0.5
        config, _ = model()._prepare_generation_config(None, **NEUTRAL | {name: value})
        assert len(model()._get_logits_processor(config)) == 1, "the engine would warp"
        with pytest.raises(od.ProblemError, match=rf"{name}={value} would cut or temper q again"):
            check_generation_config(config)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "top_k=50 would cut"),
            (NEUTRAL | {"do_sample": False}, "do_sample is not True"),
            (NEUTRAL | {"num_beams": 3}, "num_beams=3"),
            (NEUTRAL | {"watermarking_config": {"bias": 1.0}}, "watermarking_config"),
        ],
    )
    def test_other_things_are_refused(self, settings, message):
        with pytest.raises(od.ProblemError, match=message):
            check_generation_config(GenerationConfig(**settings))

    def test_unset_fields_are_what_generate_makes_of_them(self):
        assert from_generation_config(GenerationConfig()) == od.greedy()
        assert from_generation_config(GenerationConfig(do_sample=True)) == od.top_k(50)
        config, _ = model()._prepare_generation_config(None, do_sample=True)
        assert from_generation_config(config) == od.top_k(50)

    def test_order(self):
        config = GenerationConfig(**NEUTRAL | {
            "temperature": 0.5, "top_k": 9, "top_p": 0.8, "min_p": 0.1, "typical_p": 0.7, "epsilon_cutoff": 0.01,
            "eta_cutoff": 0.02,
        })  # fmt: skip
        rules = od.Chain(od.TopK(9), od.TopP(0.8), od.MinP(0.1), od.Typical(0.7), od.Epsilon(0.01), od.Eta(0.02))
        assert from_generation_config(config) == od.softmax(0.5).subject_to(rules)

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            ({"top_h": 0.4}, "top_h=0.4"), ({"num_beams": 2}, "num_beams=2"),
            ({"watermarking_config": {"bias": 1.0}}, "watermarking_config"),
            ({"repetition_penalty": 1.2}, r"repetition_penalty=1.2; edits='engine'"),
            ({"bad_words_ids": [[4]]}, "bad_words_ids"), ({"min_new_tokens": 3}, "min_new_tokens=3"),
            ({"temperature": 0.0}, "temperature must be > 0"), ({"assistant_ensemble_weight": 0.5}, "assistant_ens"),
        ],
    )  # fmt: skip
    def test_what_no_decoder_does_is_refused_by_name(self, settings, name):
        config = GenerationConfig(**NEUTRAL)
        config.update(**settings)
        with pytest.raises(od.ProblemError, match=name):
            from_generation_config(config)

    def test_edits_are_left_to_the_engine(self):
        config = GenerationConfig(**NEUTRAL | {"top_p": 0.9, "repetition_penalty": 1.2})
        assert from_generation_config(config, edits="engine") == od.top_p(0.9)

    def test_a_field_of_a_later_version_is_refused(self):
        class Later(GenerationConfig):
            def __init__(self, **kwargs):
                self.top_q = kwargs.pop("top_q", None)
                super().__init__(**kwargs)

        assert from_generation_config(Later(**NEUTRAL, top_q=None)) == od.softmax()
        with pytest.raises(od.ProblemError, match=r"top_q=0.5 is not known"):
            from_generation_config(Later(**NEUTRAL, top_q=0.5))
