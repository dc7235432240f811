"""The embedded model with the real ONNX Runtime: its files, its KV cache and the generation loop."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import optdecode as od
from optdecode.models import EmbeddedModel, Generation, dagmod, runtime

pytestmark = pytest.mark.integration

DATA = Path(runtime.__file__).parent / "data"
HELD_OUT = dagmod.generate(500, seed=0, split="test")


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel()


@pytest.fixture(scope="module")
def greedy(model) -> Generation:
    return model.generate(HELD_OUT, od.greedy())


def verified(problems: list[dagmod.Problem], generation: Generation) -> np.ndarray:
    pairs = zip(np.repeat(np.arange(len(problems)), generation.samples), generation.tokens, strict=True)
    return np.array([dagmod.verify(problems[i], row).correct for i, row in pairs])


class TestModel:
    def test_greedy_solves_held_out_problems(self, greedy):
        assert verified(HELD_OUT, greedy).mean() >= 0.6
        assert greedy.finished.mean() > 0.95

    def test_step_equals_a_full_forward(self, model):
        whole = [model.encode(problem.prompt + " " + " ".join(problem.derivation())) for problem in HELD_OUT[:8]]
        for sequence in whole:
            cut = len(sequence) - 6
            logits, cache = model.start([sequence[:cut]])
            for end in range(cut, len(sequence)):
                full, _ = model.start([sequence[:end]])
                np.testing.assert_allclose(logits, full, atol=1e-4)
                logits, cache = model.step(np.array([sequence[end]]), cache)
            np.testing.assert_allclose(logits, model.start([sequence])[0], atol=1e-4)

    def test_left_padding_and_batch_composition_do_not_change_logits(self, model):
        prompts = [model.encode(problem.prompt) for problem in HELD_OUT[:32]]
        assert len({len(prompt) for prompt in prompts}) > 3
        together, cache = model.start(prompts)
        alone = [model.start([prompt]) for prompt in prompts]
        np.testing.assert_allclose(together, np.concatenate([logits for logits, _ in alone]), atol=1e-4)
        tokens = together.argmax(axis=1)
        after, _ = model.step(tokens, cache)
        after_alone = [model.step(tokens[[i]], cache)[0] for i, (_, cache) in enumerate(alone)]
        np.testing.assert_allclose(after, np.concatenate(after_alone), atol=1e-4)

    def test_taking_rows_of_the_cache(self, model):
        prompts = [model.encode(problem.prompt) for problem in HELD_OUT[:6]]
        logits, cache = model.start(prompts)
        tokens, rows = logits.argmax(axis=1), np.array([4, 1, 1])
        some, _ = model.step(tokens[rows], cache.take(rows))
        every, _ = model.step(tokens, cache)
        np.testing.assert_allclose(some, every[rows], atol=1e-4)

    def test_sampling_meets_the_junk_tail(self, model):
        # 1 % of the training tokens were junk, spread evenly: at temperature 1 the model must have learned it.
        logits, _ = model.start([model.encode(problem.prompt) for problem in HELD_OUT])
        probs = od.softmax()(logits).probs
        junk = probs[:, dagmod.first_junk_id() :].sum(axis=1)
        assert 0.003 < junk.mean() < 0.03


class TestTokenizer:
    def test_round_trip(self, model):
        for problem in HELD_OUT[:100]:
            ids = model.encode(problem.prompt)
            assert ids == dagmod.encode((dagmod.BOS, *problem.prompt_tokens))
            assert model.decode(ids) == problem.prompt
            assert model.encode(problem.prompt.replace(" ", "")) == ids

    def test_vocabulary(self, model):
        words = dagmod.vocabulary()
        assert [model.tokenizer.id_to_token(i) for i in range(model.vocab_size)] == list(words)
        assert model.tokenizer.get_vocab_size() == model.vocab_size == len(words)
        assert model.encode(" ".join(words[4:]))[1:] == list(range(4, len(words)))

    def test_unknown_characters(self, model):
        assert model.encode("a = é")[-1] == dagmod.encode([dagmod.UNKNOWN])[0]


class TestFiles:
    def test_size(self):
        assert sum(path.stat().st_size for path in DATA.iterdir()) <= 6_000_000

    def test_weights_have_the_names_and_shapes_of_a_llama(self):
        config = json.loads((DATA / "config.json").read_text())
        weights = load_file(DATA / "model.safetensors")
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        expected = {name: (config["vocab_size"], hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
        expected["model.norm.weight"] = (hidden,)
        for layer in range(config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            expected |= {f"{name}.self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
            expected |= {f"{name}.mlp.{part}_proj.weight": (wide, hidden) for part in ("gate", "up")}
            expected[f"{name}.mlp.down_proj.weight"] = (hidden, wide)
            expected |= {f"{name}.{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        assert {name: weight.shape for name, weight in weights.items()} == expected
        assert all(weight.dtype == np.float16 for weight in weights.values())
        assert not config["tie_word_embeddings"]

    def test_config_knows_the_special_tokens(self):
        config = json.loads((DATA / "config.json").read_text())
        ids = [config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]]
        assert ids == dagmod.encode((dagmod.PAD, dagmod.BOS, dagmod.EOS))


class TestGenerate:
    def test_batch_size_does_not_change_the_tokens(self, model, greedy):
        some = model.generate(HELD_OUT[:60], od.greedy(), batch_size=7)
        assert some.text == greedy.text[:60]

    def test_a_sequence_depends_on_its_own_seed_alone(self, model):
        problems, decoder = HELD_OUT[:12], od.top_p(0.95)
        together = model.generate(problems, decoder, samples=3, seed=5)
        seeds = od.row_seeds(5, 36).reshape(12, 3)
        some = model.generate(problems[4:7], decoder, samples=3, seed=seeds[4:7], batch_size=4)
        assert some.text == together.text[12:21]
        single = model.generate([problems[11]], decoder, seed=seeds[11, 2:])
        assert single.text == together.text[-1:]

    def test_arithmetic_codes_spread_the_samples(self, model):
        """Whatever shares the batch; more different sequences than independent draws find, 40 prompts of 8 samples."""
        problems, n = HELD_OUT[:40], 8
        codes = [od.ArithmeticCodes(n, seed) for seed in range(40)]
        some = [one.copy() for one in codes[3:5]]
        together = model.generate(problems, od.softmax(), samples=n, coupling=codes)
        assert [list(one.steps) for one in codes] == together.lengths.reshape(40, n).tolist()
        again = model.generate(problems[3:5], od.softmax(), samples=n, coupling=some, batch_size=5)
        assert again.text == together.text[3 * n : 5 * n]
        independent = model.generate(problems, od.softmax(), samples=n, seed=1)

        def different(generation):
            return sum(len(set(generation.text[i * n : (i + 1) * n])) for i in range(40))

        assert different(together) > different(independent)
        one = model.generate([problems[0]], od.softmax(), samples=n, coupling=od.ArithmeticCodes(n, 0))
        assert one.text == together.text[:n]

    def test_bad_couplings(self, model):
        for given, message in (
            ({"coupling": "systematic"}, "coupling must be 'iid', or ArithmeticCodes"),
            ({"coupling": od.ArithmeticCodes(2)}, "of 3 sequences"),
            ({"coupling": od.ArithmeticCodes(3), "seed": 0}, "which have seeds"),
        ):
            with pytest.raises(ValueError, match=message):
                model.generate([HELD_OUT[0]], od.softmax(), samples=3, **given)

    def test_samples_differ_and_cover_more(self, model):
        generation = model.generate(HELD_OUT[:100], od.softmax(), samples=8, seed=1)
        right = verified(HELD_OUT[:100], generation).reshape(100, 8)
        assert right.any(axis=1).mean() > right.mean() + 0.05
        assert len(set(generation.text[:8])) > 1

    def test_what_comes_back(self, model):
        seen: list[tuple[int, int]] = []
        generation = model.generate(
            HELD_OUT[:20], od.softmax(), samples=2, seed=3, entropy=True, progress=lambda *done: seen.append(done)
        )
        steps = generation.tokens.shape[1]
        assert generation.tokens.shape == generation.log_probs.shape == generation.entropies.shape == (40, steps)
        past_end = np.arange(steps) >= generation.lengths[:, None]
        assert (generation.tokens[past_end] == dagmod.encode([dagmod.PAD])[0]).all()
        assert (generation.log_probs[past_end] == 0).all()
        assert (generation.entropies[past_end] == 0).all()
        assert (generation.log_probs <= 0).all()
        assert ((generation.mean_entropies >= 0) & (generation.mean_entropies <= math.log(1024))).all()
        np.testing.assert_array_equal(generation.rows, (~past_end).sum(axis=0))
        assert generation.model_seconds.shape == generation.decode_seconds.shape == (steps,)
        assert (generation.decode_seconds > 0).all()
        assert generation.prefill_seconds > 0
        assert seen[-1] == (40, 40)
        eos = dagmod.encode([dagmod.EOS])[0]
        for row, length, finished in zip(generation.tokens, generation.lengths, generation.finished, strict=True):
            assert (row[length - 1] == eos) == finished
            assert eos not in row[: length - 1]

    def test_log_probs_are_those_of_the_decoder(self, model):
        generation = model.generate([HELD_OUT[0]], od.softmax(0.7), seed=2)
        ids = model.encode(HELD_OUT[0].prompt)
        for at, token in enumerate(generation.tokens[0]):
            logits, _ = model.start([ids + generation.tokens[0, :at].tolist()])
            expected = od.softmax(0.7)(logits).log_probs[0, token]
            assert generation.log_probs[0, at] == pytest.approx(expected, abs=1e-3)
        assert generation.total_log_probs[0] == pytest.approx(generation.log_probs.sum(), abs=1e-4)

    def test_cut_at_max_new_tokens(self, model):
        generation = model.generate(HELD_OUT[:3], od.greedy(), max_new_tokens=5)
        assert generation.lengths.tolist() == [5, 5, 5]
        assert not generation.finished.any()
        with pytest.raises(ValueError, match="entropy=True"):
            _ = generation.mean_entropies

    def test_no_prompts(self, model):
        assert model.generate([], od.greedy()).text == ()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"samples": 0}, "samples must be at least 1; got 0"),
            ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
            ({"max_new_tokens": 250}, "Prompt 0 has .* at most 6 fit"),
            ({"seed": [1, 2, 3]}, "seed must be an integer or 1 x 1"),
            ({"seed": [0.5]}, "seed must be an integer or 1 x 1"),
        ],
    )
    def test_bad_arguments(self, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            model.generate([HELD_OUT[0]], od.greedy(), **arguments)


@dataclass(frozen=True)
class Missing:
    """Stands in for `import_module`: the package named is not installed."""

    name: str

    def __call__(self, name: str) -> object:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return __import__(name)


@pytest.mark.parametrize("name", ["onnxruntime", "tokenizers"])
def test_a_missing_dependency_is_named(monkeypatch, name):
    monkeypatch.setattr(runtime, "import_module", Missing(name))
    with pytest.raises(od.errors.BackendUnavailableError, match=rf"needs {name}.*pip install 'optdecode\[demo\]'"):
        EmbeddedModel()
