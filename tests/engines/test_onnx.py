"""The ONNX Runtime loop on the embedded model, and the draw inside ORT GenAI's `Generator`."""

import json
import re
from functools import cache
from pathlib import Path
from shutil import copy

import numpy as np
import onnxruntime
import pytest

import optdecode as od
from engines import examples, grammars
from optdecode.integrations.onnx import OnnxModel, genai_generate, generate
from optdecode.models import EmbeddedModel, dagmod, runtime

pytestmark = pytest.mark.engine

FOLDER = Path(runtime.__file__).parent / "data"
EOS, LONGEST = 2, 40
BEST = od.best_of_k(8, beta_bar=5.0, lam=1.0)
TEXTS = [problem.prompt for problem in dagmod.generate(8, seed=0, split="test")]


@cache
def model():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return OnnxModel(onnxruntime.InferenceSession(FOLDER / "model.onnx", options, ["CPUExecutionProvider"]))


@cache
def prompts():
    return [EmbeddedModel().encode(text) for text in TEXTS]


def run(decoder, given=None, **arguments):
    return generate(model(), given or prompts(), decoder, eos_token_id=EOS, **arguments)


class TestLoop:
    @pytest.mark.parametrize("decoder", [od.greedy(), od.top_p(0.95), od.sparsemax(), BEST], ids=repr)
    def test_equals_the_embedded_model(self, decoder):
        there = EmbeddedModel(threads=1).generate(TEXTS, decoder, samples=2, seed=4)
        ours = run(decoder, samples=2, seed=4, prefix_budget=False)
        np.testing.assert_array_equal(np.maximum(ours.tokens, 0), there.tokens)
        np.testing.assert_array_equal(ours.lengths, there.lengths)
        np.testing.assert_array_equal(ours.finished, there.finished)
        np.testing.assert_allclose(ours.log_probs, there.log_probs, atol=1e-4)
        assert (ours.status == od.Status.OK).all()

    def test_equals_a_loop_written_by_hand(self):
        """Whole prefixes through the session itself, one sequence at a time, no cache."""
        session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
        decoder, seeds = od.softmax(1.2), od.row_seeds(7, len(prompts()))
        ours = run(decoder, seed=7, max_new_tokens=15)
        for prompt, seed, tokens in zip(prompts(), seeds, ours.tokens, strict=True):
            ids = list(prompt)
            for position in range(15):
                feeds = {name: np.array([ids]) for name in ("input_ids",)}
                feeds |= {"attention_mask": np.ones((1, len(ids)), dtype=np.int64),
                          "position_ids": np.arange(len(ids))[None]}  # fmt: skip
                feeds |= {
                    entry.name: np.zeros((1, 4, 0, 32), dtype=np.float32)
                    for entry in session.get_inputs()
                    if entry.name.startswith("past")
                }
                logits = session.run(["logits"], feeds)[0][0, -1]
                ids.append(int(decoder.sample(logits, seed=int(seed), position=position).tokens[0]))
                if ids[-1] == EOS:
                    break
            new = ids[len(prompt) :]
            np.testing.assert_array_equal(tokens[: len(new)], new)

    def test_a_row_depends_on_nothing_but_itself(self):
        seeds = od.row_seeds(1, len(prompts()))
        together = run(od.softmax(), seed=seeds)
        some = [5, 1]
        few = run(od.softmax(), [prompts()[i] for i in some], seed=seeds[some])
        np.testing.assert_array_equal(few.tokens, together.tokens[some, : few.tokens.shape[1]])

    def test_several_end_tokens_and_a_decoder_a_prompt(self):
        decoders = [od.greedy(), od.top_k(2)] * 4
        ours = generate(model(), prompts(), decoders, eos_token_id=[EOS, 5], seed=1, samples=2)
        for row in range(16):
            single = run(decoders[row // 2], [prompts()[row // 2]], seed=od.row_seeds(1, 16)[row : row + 1])
            end = np.flatnonzero(np.isin(single.tokens[0], [EOS, 5]))
            length = end[0] + 1 if len(end) else single.lengths[0]
            assert ours.lengths[row] == length
            np.testing.assert_array_equal(ours.tokens[row, :length], single.tokens[0, :length])

    def test_siblings_share_budgets_and_couple(self):
        apart = run(BEST, samples=4, seed=3, prefix_budget=False, max_new_tokens=1)
        together = run(BEST, samples=4, seed=3, max_new_tokens=1)
        logits, _ = model().start(prompts())
        seeds = od.row_seeds(3, 32).reshape(8, 4)
        for drawn, budget in ((apart, 8), (together, 4)):
            expected = [
                int(BEST.sample(logits[i], seed=int(seed), budget=budget).tokens[0])
                for i in range(8)
                for seed in seeds[i]
            ]
            np.testing.assert_array_equal(drawn.tokens[:, 0], expected)
        coupled = run(od.softmax(1.5), samples=16, seed=3, coupling="systematic", max_new_tokens=1)
        expected = 16 * od.softmax(1.5)(logits).probs.astype(np.float64)
        counts = np.array([np.bincount(row, minlength=1024) for row in coupled.tokens.reshape(8, 16)])
        assert (counts >= np.floor(expected - 1e-3)).all()
        assert (counts <= np.ceil(expected + 1e-3)).all()

    @pytest.mark.parametrize("name", grammars.ENGINES)
    def test_a_grammar_drives_it(self, name):
        engine = grammars.ENGINES[name](2 * len(prompts()), len(grammars.WORDS) - 64)
        ours = run(od.softmax(2.0), samples=2, seed=3, mask=grammars.driver(engine))
        assert ours.finished.all()
        for row, length in zip(ours.tokens, ours.lengths, strict=True):
            assert re.fullmatch(grammars.EXPRESSION, "".join(grammars.WORDS[token] for token in row[: length - 1]))

    def test_a_row_without_a_distribution(self):
        def nothing_for_row_2(tokens, live):
            allowed = np.ones((len(prompts()), 1024), dtype=bool)
            allowed[2] = tokens.shape[1] < 3
            return allowed

        with pytest.raises(od.ConvergenceError, match="row 2: INFEASIBLE"):
            run(od.softmax(), seed=1, mask=nothing_for_row_2)
        with pytest.warns(RuntimeWarning, match="position 3.*row 2: INFEASIBLE"):
            ours = run(od.softmax(), seed=1, mask=nothing_for_row_2, on_failure="mark")
        healthy = run(od.softmax(), seed=1)
        assert ours.lengths[2] == 3
        assert not ours.finished[2]
        assert ours.status.tolist() == [0, 0, 2, 0, 0, 0, 0, 0]
        others = [0, 1, 3, 4, 5, 6, 7]
        np.testing.assert_array_equal(ours.tokens[others], healthy.tokens[others, : ours.tokens.shape[1]])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"samples": 0}, "samples"),
            ({"max_new_tokens": 0}, "max_new_tokens"),
            ({"given": [[1], []]}, "non-empty"),
            ({"coupling": "x"}, "coupling must be one of"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(od.ProblemError, match=message):
            run(od.greedy(), **arguments)


class StandIn:
    """What ORT GenAI 0.18 was seen to do, around the real session: its `Generator` is not a requirement of the tests.

    `append_tokens` takes several rows once only, `generate_next_token` takes the best of the logits set last and pads
    rows that ended, and a last end token is not appended.
    """

    def __init__(self, rows):
        self.sequences = [list(row) for row in rows]
        self.ended, self.next = np.zeros(len(rows), dtype=bool), None
        self.logits, self.cache = model().start(rows)

    def is_done(self):
        return bool(self.ended.all()) or len(self.sequences[0]) >= LONGEST + 20

    def get_logits(self):
        return self.logits[:, None].copy()

    def set_logits(self, logits):
        assert logits.shape == (len(self.sequences), 1, self.logits.shape[1])
        assert logits.dtype == np.float32
        self.logits = logits[:, 0].copy()

    def generate_next_token(self):
        self.next = np.where(self.ended, 0, self.choose(self.logits)).astype(np.int32)
        self.ended |= self.next == EOS
        if not self.ended.all():
            for row, token in zip(self.sequences, self.next, strict=True):
                row.append(int(token))
            self.logits, self.cache = model().step(self.next, self.cache)

    def choose(self, logits):
        return logits.argmax(axis=1)

    def get_next_tokens(self):
        return self.next

    def get_sequence(self, row):
        return np.array(self.sequences[row])


@pytest.fixture(scope="session")
def genai_model(tmp_path_factory):
    import onnxruntime_genai

    folder = tmp_path_factory.mktemp("genai")
    copy(FOLDER / "model.onnx", folder)
    past, present = "past_key_values.%d", "present.%d"
    decoder = {
        "filename": "model.onnx", "head_size": 32, "hidden_size": 128, "num_attention_heads": 4,
        "num_hidden_layers": 4, "num_key_value_heads": 4, "session_options": {"provider_options": []},
        "inputs": {
            "input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids",
            "past_key_names": f"{past}.key", "past_value_names": f"{past}.value",
        },
        "outputs": {
            "logits": "logits", "present_key_names": f"{present}.key", "present_value_names": f"{present}.value",
        },
    }  # fmt: skip
    config = {
        "model": {"type": "llama", "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0, "context_length": 256,
                  "vocab_size": 1024, "decoder": decoder},
        "search": {"do_sample": False, "max_length": 256, "past_present_share_buffer": False},
    }  # fmt: skip
    (folder / "genai_config.json").write_text(json.dumps(config))
    return onnxruntime_genai.Model(str(folder))


@pytest.fixture(params=["stand-in", "onnxruntime-genai"])
def make_generator(request):
    """A function from rows of token ids to a generator: ORT GenAI's own where it is installed, too."""
    if request.param == "stand-in":
        return StandIn
    og, loaded = __import__("onnxruntime_genai"), request.getfixturevalue("genai_model")

    def make(rows):
        longest = max(map(len, rows))
        parameters = og.GeneratorParams(loaded)
        parameters.set_search_options(batch_size=len(rows), max_length=longest + LONGEST, do_sample=False)
        generator = og.Generator(loaded, parameters)
        generator.append_tokens(np.array([row + [0] * (longest - len(row)) for row in rows], dtype=np.int32))
        return generator

    return make


class TestGenAI:
    @pytest.mark.parametrize("decoder", [od.greedy(), od.top_p(0.95), od.entmax(1.5)], ids=repr)
    @pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3, 4, 5]], ids=len)
    def test_equals_the_loop_over_the_session(self, make_generator, decoder, rows):
        given = [prompts()[i] for i in rows]
        ours = genai_generate(make_generator(given), decoder, eos_token_id=EOS, seed=5)
        expected = run(decoder, given, seed=5, max_new_tokens=LONGEST).tokens
        width = min(ours.shape[1], expected.shape[1])
        np.testing.assert_array_equal(ours[:, :width], expected[:, :width])
        assert (ours[:, width:] == -1).all()

    @pytest.mark.parametrize("make_generator", ["onnxruntime-genai"], indirect=True)
    @pytest.mark.parametrize("row", range(4))
    def test_greedy_is_the_generators_own(self, make_generator, row):
        given = [prompts()[row]]
        alone = make_generator(given)
        while not alone.is_done():
            alone.generate_next_token()
        own = alone.get_sequence(0).tolist()[len(given[0]) :]  # without the token that ended it
        ours = genai_generate(make_generator(given), od.greedy(), eos_token_id=EOS)[0].tolist()
        assert len(own) > 5
        assert [token for token in ours if token not in (-1, EOS)] == own

    def test_the_generator_holds_the_sequence(self, make_generator):
        generator = make_generator([prompts()[0], prompts()[0]])
        ours = genai_generate(generator, od.softmax(), eos_token_id=EOS, seed=5, samples=2, coupling="systematic")
        for row in range(2):
            new = [token for token in ours[row] if token not in (-1, EOS)]
            held = generator.get_sequence(row).tolist()
            assert held[: len(prompts()[0]) + len(new)] == [*prompts()[0], *new]

    @pytest.mark.parametrize("name", grammars.ENGINES)
    def test_a_grammar_drives_it(self, make_generator, name):
        engine = grammars.ENGINES[name](3)
        generator = make_generator([prompts()[0]] * 3)
        ours = genai_generate(generator, od.softmax(2.0), eos_token_id=EOS, seed=5, mask=grammars.driver(engine))
        for row in ours:
            words = [grammars.WORDS[token] for token in row if token >= 0]
            assert words.pop() == "<eos>"
            assert re.fullmatch(grammars.EXPRESSION, "".join(words))

    def test_a_row_without_a_distribution(self, make_generator):
        def nothing_for_row_1(tokens, live):
            allowed = np.ones((2, 1024), dtype=bool)
            allowed[1] = tokens.shape[1] < 2
            return allowed

        given = {"eos_token_id": EOS, "seed": 1, "mask": nothing_for_row_1}
        with pytest.raises(od.ConvergenceError, match="row 1: INFEASIBLE"):
            genai_generate(make_generator([prompts()[0]] * 2), od.softmax(), **given)
        with pytest.warns(RuntimeWarning, match="position 2.*row 1: INFEASIBLE"):
            ours = genai_generate(make_generator([prompts()[0]] * 2), od.softmax(), on_failure="mark", **given)
        assert (ours[1, 2:] == -1).all()
        assert (ours[0] == EOS).any()

    def test_a_generator_with_a_will_of_its_own_is_refused(self):
        generator = StandIn([prompts()[0]])
        generator.choose = lambda logits: np.array([7])
        with pytest.raises(od.OptdecodeError, match="set do_sample=False"):
            genai_generate(generator, od.top_k(1), eos_token_id=EOS)


def test_the_example_runs():
    assert len(re.findall(r"prompt [01], sample [0-3], log q +-\d", examples.output_of("onnx_runtime.py"))) == 8
