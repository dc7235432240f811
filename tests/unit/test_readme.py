"""The README's example prints what the README shows."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[2] / "README.md"


def test_example_prints_what_is_shown():
    text = README.read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL).groups()
    assert len(code.splitlines()) <= 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == shown


def test_the_recipe_for_any_loop():
    """A toy model of three words whose next token is one more than the last, mostly."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    generate = names["generate"]

    def next_logits(tokens):
        logits = np.zeros(5, dtype=np.float32)
        logits[(tokens[-1] + 1) % 5] = 50.0
        return logits

    assert generate(next_logits, [0], seed=1, eos=4) == [0, 1, 2, 3, 4]
    odd = np.arange(5) % 2 == 1
    drawn = generate(next_logits, [0], seed=1, eos=4, max_new_tokens=6, mask=lambda tokens: odd)
    assert len(drawn) == 7
    assert all(token % 2 for token in drawn[1:])
