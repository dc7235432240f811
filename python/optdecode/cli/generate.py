"""``optdecode generate``: samples of one prompt on the embedded model, and their vote."""

from __future__ import annotations

import argparse
from typing import Any

from optdecode._parse import parse_decoder
from optdecode._spec import positive_int
from optdecode.errors import ProblemError
from optdecode.multisample import vote

_EXAMPLE = """example:
  optdecode generate --decoder 'best_of_k(budget=8)' --samples 8 --seed 1 --prompt 'c = a * b ; a = 7 ; b = 4 ; ? c'
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "generate",
        help="draw samples of one prompt on the embedded model",
        description="Draw samples of one prompt; print them, their log-probabilities and the vote.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--decoder", default="softmax()", help="such as 'best_of_k(budget=8)'; parsed, never evaluated")
    parser.add_argument("--samples", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    parser.add_argument("--prompt", help="equations and a question; a held-out problem if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from optdecode.models import dagmod
    from optdecode.models.runtime import EmbeddedModel

    decoder = parse_decoder(arguments.decoder)
    samples = positive_int("generate", "--samples", arguments.samples, high=4096)
    if arguments.prompt is None:
        problem = dagmod.generate(1, seed=arguments.seed)[0]
    else:
        try:
            problem = dagmod.Problem.from_prompt(arguments.prompt)
        except ValueError as error:
            raise ProblemError(f"--prompt: {error}") from error
    generation = EmbeddedModel().generate([problem], decoder, samples=samples, seed=arguments.seed)
    log_probs = generation.total_log_probs
    verdicts = [dagmod.verify(problem, tokens) for tokens in generation.of(0)]
    print(f"prompt   {problem.prompt}")
    print(f"decoder  {decoder!r}")
    width = max(map(len, generation.text))
    for index, (text, verdict) in enumerate(zip(generation.text, verdicts, strict=True)):
        print(f"{index:>4}  log q {log_probs[index]:>9.3f}  {text:<{width}}  {verdict.reason}")
    chosen = vote([verdict.answer for verdict in verdicts], log_probs)
    counts = ", ".join(
        f"{answer} x {count}" for answer, count in sorted(chosen.counts.items(), key=lambda item: -item[1])
    )
    print(
        f"vote     {'no valid answer' if chosen.index < 0 else chosen.answer}  "
        f"({counts or 'none'}; the answer is {problem.answer})"
    )
    return 0
