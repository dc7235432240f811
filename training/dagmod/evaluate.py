"""Score an exported model: greedy on 500 held-out problems, samples by softmax on the first 200 of them."""

import argparse
from pathlib import Path

import numpy as np

import optdecode as od
from optdecode.models import EmbeddedModel, dagmod

TEMPERATURES = (0.5, 1.0, 1.5)
SAMPLES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of an export; the model that ships by default")
    model = EmbeddedModel(parser.parse_args().model)
    problems = dagmod.generate(500, seed=0)
    greedy = model.generate(problems, od.greedy())
    verdicts = [dagmod.verify(problem, greedy.of(i)[0]) for i, problem in enumerate(problems)]
    answers = np.mean([verdict.answer == problem.answer for verdict, problem in zip(verdicts, problems, strict=True)])
    print(f"greedy: verified {np.mean([verdict.correct for verdict in verdicts]):.3f}, answer alone {answers:.3f}")
    few = problems[:200]
    for temperature in TEMPERATURES:
        drawn = model.generate(few, od.softmax(temperature), samples=SAMPLES, seed=1)
        right = [[dagmod.verify(problem, ids).correct for ids in drawn.of(i)] for i, problem in enumerate(few)]
        print(
            f"softmax({temperature:g}): pass@1 {np.mean(right):.3f}, pass@{SAMPLES} {np.any(right, axis=1).mean():.3f}"
        )


if __name__ == "__main__":
    main()
