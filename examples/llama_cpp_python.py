"""Decode with llama-cpp-python: ``python examples/llama_cpp_python.py [MODEL.gguf PROMPT]``.

Without arguments it writes the embedded model as GGUF (needs the packages gguf and safetensors) and asks it to derive a
value.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import llama_cpp

import optdecode as od
from optdecode.integrations.llama_cpp import OptdecodeLogitsProcessor, drawing, from_llama_kwargs, generate

EXPORT = Path(__file__).parent.parent / "scripts/export_dagmod.py"
PROMPT = "n = 8 ; u = 1 ; m = 7 ; c = n * j ; j = m + u ; w = j - c ; ? w"


def embedded(folder: str) -> str:
    """Write the embedded model into a folder."""
    subprocess.run([sys.executable, str(EXPORT), folder], check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/dagmod.gguf"


def decode(model: llama_cpp.Llama, prompt: str) -> None:
    """Decode a prompt in every way that the adapter has."""
    decoder = od.entmax(alpha=1.5).subject_to(od.TopK(50))

    # Completions, chat completions, grammars, stop strings: as ever, with our draws.
    with drawing(model, decoder, seed=7):
        print("completion  ", model.create_completion(prompt, max_tokens=40)["choices"][0]["text"])

    # Several sequences of one prompt; each depends on its own seed alone.
    several = generate(model, prompt, od.best_of_k(budget=8), seed=7, n=8, max_tokens=40)
    last = [model.detokenize(sequence.tokens[-2:]).decode() for sequence in several if sequence.finished]
    print("votes       ", Counter(last).most_common())

    # The decoder that equals llama.cpp's own chain, with draws that repeat.
    print("same as     ", from_llama_kwargs(top_k=40, top_p=0.9, temperature=0.7))

    # Or leave the draw to llama.cpp and give it the distribution.
    processor = OptdecodeLogitsProcessor(od.sparsemax())
    print(
        "engine draws",
        model.create_completion(prompt, max_tokens=40, seed=1, **processor.kwargs())["choices"][0]["text"],
    )


def main() -> None:
    """Run on the model that was named, or on the embedded one."""
    with tempfile.TemporaryDirectory() as folder:
        path, prompt = sys.argv[1:3] if len(sys.argv) > 2 else (embedded(folder), PROMPT)
        model = llama_cpp.Llama(path, n_ctx=256, verbose=False)
        try:
            decode(model, prompt)
        finally:
            model.close()


if __name__ == "__main__":
    main()
