"""The DAG-mod task: generator, text forms, split and verifier."""

from __future__ import annotations

import numpy as np
import pytest

from optdecode.models import dagmod
from optdecode.models.dagmod import Draws, Leaf, Node, Problem, verify

PROMPT = "c = a - b ; a = 2 ; e = c * a ; b = 4 ; d = 9 ; ? e"
PROBLEM = Problem.from_prompt(PROMPT)  # a = 2, b = 4, c = 8, e = 6; d is a distractor
RIGHT = "b 4 a 2 c 2 - 4 8 e 8 * 2 6 # 6 <eos>"

# Published numbers and the training split rest on these three: never change them.
KEY = 0x466964913D185838
FIRST_TRAIN = "f = 3 ; e = f * l ; l = f + a ; q = l + f ; a = 1 ; ? e"
FIRST_TEST = "n = 8 ; u = 1 ; m = 7 ; c = n * j ; j = m + u ; w = j - c ; ? w"


def brute_force(problem: Problem, name: str) -> int:
    equation = problem.by_name[name]
    if isinstance(equation, Leaf):
        return equation.value
    left, right = brute_force(problem, equation.left), brute_force(problem, equation.right)
    return {"+": left + right, "-": left - right, "*": left * right}[equation.op] % 10


class TestGenerator:
    def test_same_seed_same_problems(self):
        assert dagmod.generate(50, seed=3) == dagmod.generate(50, seed=3)
        assert dagmod.generate(50, seed=3) == dagmod.generate(80, seed=3)[:50]
        assert dagmod.generate(50, seed=3) != dagmod.generate(50, seed=4)

    def test_the_stream_is_fixed_for_ever(self):
        assert dagmod.generate(1, seed=0, split="train")[0].prompt == FIRST_TRAIN
        assert dagmod.generate(1, seed=0, split="test")[0].prompt == FIRST_TEST

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_problems_are_well_formed(self, split):
        for problem in dagmod.generate(300, seed=5, split=split):
            assert 4 <= len(problem.equations) == len(problem.by_name) <= 7
            assert isinstance(problem.by_name[problem.query], Node)
            assert all(problem.values[name] == brute_force(problem, name) for name in problem.by_name)
            assert problem.needed <= set(problem.by_name)

    def test_sizes_and_operations_all_occur(self):
        problems = dagmod.generate(400, seed=6, split="train")
        assert {len(problem.equations) for problem in problems} == {4, 5, 6, 7}
        nodes = [equation for problem in problems for equation in problem.equations if isinstance(equation, Node)]
        assert {node.op for node in nodes} == set("+-*")
        assert all(node.left != node.right for node in nodes)
        answers = np.bincount([problem.answer for problem in problems], minlength=10)
        assert answers.min() > 0
        assert answers.max() < 0.4 * len(problems)

    def test_variables_argument(self):
        assert {len(p.equations) for p in dagmod.generate(50, seed=1, variables=(9, 9))} == {9}

    @pytest.mark.parametrize("variables", [(2, 5), (5, 4), (4, 27)])
    def test_variables_out_of_range(self, variables):
        with pytest.raises(ValueError, match="variables must be"):
            dagmod.stream(variables=variables)

    def test_unknown_split(self):
        with pytest.raises(ValueError, match="'train' or 'test'"):
            dagmod.stream(split="dev")

    def test_draws_are_uniform(self):
        draws = Draws(11)
        counts = np.bincount([draws.below(7) for _ in range(70_000)], minlength=7)
        assert len(counts) == 7
        # chi-square with 6 degrees of freedom exceeds 27.9 with probability 1e-4; the seed is fixed
        assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


class TestSplit:
    def test_splits_are_disjoint(self):
        train = {problem.key for problem in dagmod.generate(20_000, seed=0, split="train")}
        test = {problem.key for problem in dagmod.generate(1_000, seed=1, split="test")}
        assert not train & test

    def test_share_of_held_out(self):
        draws = Draws(2).below
        held_out = sum(dagmod._random_problem(draws, 6).held_out for _ in range(8_000))
        assert 400 < held_out < 600  # 500 expected, standard deviation 22

    def test_key_ignores_names_and_order(self):
        renamed = PROMPT.translate(str.maketrans("abcde", "vwxyz"))
        *statements, question = PROMPT.split(" ; ")
        reordered = " ; ".join([*reversed(statements), question])
        assert PROBLEM.key == Problem.from_prompt(renamed).key == Problem.from_prompt(reordered).key

    @pytest.mark.parametrize(
        "change",
        [
            ("a - b", "b - a"),
            ("a - b", "a + b"),
            ("a = 2", "a = 3"),
            ("? e", "? c"),
            ("c * a", "c * b"),
            ("d = 9 ; ", ""),
            ("d = 9", "d = a + b"),
        ],
    )
    def test_key_sees_values_and_graph(self, change):
        assert Problem.from_prompt(PROMPT.replace(*change)).key != PROBLEM.key

    def test_key_is_fixed_for_ever(self):
        assert PROBLEM.key == KEY


class TestText:
    def test_prompt_round_trip(self):
        for problem in dagmod.generate(200, seed=8):
            assert Problem.from_prompt(problem.prompt) == problem
            assert Problem.from_prompt(problem.prompt.replace(" ", "")) == problem

    def test_ids_round_trip(self):
        words = dagmod.vocabulary()
        assert len(words) == len(set(words)) == dagmod.VOCABULARY_SIZE
        assert dagmod.decode(dagmod.encode(words)) == list(words)
        assert dagmod.encode(["?", "nonsense"])[1] == words.index(dagmod.UNKNOWN)
        assert dagmod.decode([-1, 10**6]) == [dagmod.UNKNOWN] * 2
        assert all(word.startswith("<x") for word in words[dagmod.first_junk_id() :])

    def test_operand_used_twice(self):
        assert Problem.from_prompt("a=7;b=a*a;?b").answer == 9

    def test_minus_wraps(self):
        assert Problem.from_prompt("a=2;b=4;c=a-b;?c").answer == 8

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "end with a question"),
            ("a = 7 ; b = a + a", "end with a question such as '\\? b'; got 'b = a \\+ a'"),
            ("a = 7 ; ? b", "'b' is used but no equation defines it"),
            ("a = 7 ; b = a + c ; ? b", "'c' is used but no equation defines it"),
            ("a = 7 ; a = 8 ; ? a", "'a' is defined more than once"),
            ("a = b + c ; b = a + c ; c = 1 ; ? a", "a, b depend on themselves"),
            ("a = a + c ; c = 1 ; ? a", "a depend on themselves"),
            ("a = 12 ; ? a", "Not an equation: 'a = 1 2'"),
            ("a = 7 / 2 ; ? a", "Not an equation"),
            ("a = 7 ; b = a / a ; ? b", "Not an equation: 'b = a / a'"),
            ("A = 7 ; ? A", "\\? A"),
            ("a = 7 ; ; ? a", "Not an equation: ''"),
            ("what is 2 + 2?", "end with a question"),
        ],
    )
    def test_malformed_prompts_say_what_was_found_and_what_is_allowed(self, text, message):
        with pytest.raises(ValueError, match=message) as caught:
            Problem.from_prompt(text)
        assert "Allowed: equations" in str(caught.value)


class TestDerivation:
    def test_default_order_is_verified(self):
        for problem in dagmod.generate(200, seed=9):
            verdict = verify(problem, problem.derivation())
            assert verdict == (True, problem.answer, "correct")

    def test_random_orders_are_verified_and_differ(self):
        draws = Draws(4)
        problem = dagmod.generate(1, seed=10, variables=(7, 7))[0]
        derivations = {problem.derivation(draws.below) for _ in range(100)}
        assert len(derivations) > 1
        assert all(verify(problem, derivation).correct for derivation in derivations)


class TestVerify:
    @pytest.mark.parametrize("form", [str, str.split, lambda text: dagmod.encode(text.split())])
    def test_text_tokens_and_ids(self, form):
        assert verify(PROBLEM, form(RIGHT)) == (True, 6, "correct")

    def test_array_of_ids(self):
        assert verify(PROBLEM, np.array(dagmod.encode(RIGHT.split()))).correct

    def test_end_without_eos(self):
        assert verify(PROBLEM, RIGHT.replace(" <eos>", "")).correct

    def test_padding_after_eos_is_ignored(self):
        assert verify(PROBLEM, RIGHT + " <pad> <pad> a").correct

    def test_step_not_needed_is_allowed(self):
        assert verify(PROBLEM, "d 9 " + RIGHT).correct

    @pytest.mark.parametrize(
        ("response", "reason", "answer"),
        [
            ("b 4 a 2 c 2 - 3 8 e 8 * 2 6 # 6", "step 3: wrong operands", 6),
            ("b 4 a 2 c 4 - 2 8 e 8 * 2 6 # 6", "step 3: wrong operands", 6),
            ("b 4 a 2 c 2 + 4 8 e 8 * 2 6 # 6", "step 3: wrong operands", 6),
            ("b 4 a 2 c 2 - 4 7 e 8 * 2 6 # 6", "step 3: wrong result", 6),
            ("b 5 a 2 c 2 - 4 8 e 8 * 2 6 # 6", "step 1: wrong result", 6),
            ("b 4 c 2 - 4 8 a 2 e 8 * 2 6 # 6", "step 2: 'c' is not ready", 6),
            ("e 8 * 2 6 # 6", "step 1: 'e' is not ready", 6),
            ("b 4 a 2 a 2 c 2 - 4 8 e 8 * 2 6 # 6", "step 3: 'a' was already derived", 6),
            ("b 4 z 2 c 2 - 4 8 e 8 * 2 6 # 6", "step 2: 'z' is not a variable", 6),
            ("b 4 a 2 c 2 - 4 8 # 6", "before 'e' was derived", 6),
            ("# 6", "before 'e' was derived", 6),
            ("b 4 a 2 c 2 - 4 8 e 8 * 2 6 # 7", "wrong answer '# 7'", 7),
            ("b 4 a 2 c 2 - 4 8 e 8 * 2 6 #", "wrong answer", None),
            ("b 4 a 2 c 2 - 4 8 e 8 * 2 6 # x", "wrong answer", None),
            ("b 4 a 2 c 2 - 4 8 e 8 * 2 6 # 6 6", "wrong answer", 6),
            ("b 4 a 2 c 2 - 4 8 e 8 * 2 6", "ends without an answer", None),
            ("b 4 a 2 c 2 - 4 8 e 8 *", "step 4: wrong operands", None),
            ("b 4 <x003> a 2 c 2 - 4 8 e 8 * 2 6 # 6", "step 2: '<x003>' is not a variable", 6),
            ("", "ends without an answer", None),
            ("<eos>", "ends without an answer", None),
            ("b 4 <eos> a 2 c 2 - 4 8 e 8 * 2 6 # 6", "ends without an answer", None),
        ],
    )
    def test_faults(self, response, reason, answer):
        verdict = verify(PROBLEM, response)
        assert not verdict.correct
        assert reason in verdict.reason
        assert verdict.answer == answer

    def test_failed_draw_is_a_fault(self):
        ids = dagmod.encode(RIGHT.split())
        ids[2] = -1
        assert not verify(PROBLEM, ids).correct

    def test_any_single_change_is_caught(self):
        ids = dagmod.encode(RIGHT.split())
        for at in range(len(ids) - 1):
            for other in range(dagmod.VOCABULARY_SIZE):
                changed = [*ids[:at], other, *ids[at + 1 :]]
                assert other == ids[at] or not verify(PROBLEM, changed).correct
