"""Requests with decoders of their own in one vLLM engine, on the embedded model. Run it where vLLM is installed.

As a server: vllm serve MODEL --logits-processors optdecode.integrations.vllm:OptdecodeLogitsProcessor
"""

import os
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

from vllm import LLM, SamplingParams

import optdecode as od
from optdecode.integrations.vllm import OptdecodeLogitsProcessor, from_sampling_params

MODEL = Path(od.__file__).parent / "models" / "data"
PROMPT = "a = 7 ; b = a + c ; c = 2 ; d = c * e ; e = 3 ; ? b"


def main() -> None:
    """Print what each request gets."""
    engine = LLM(str(MODEL), dtype="float32", enforce_eager=True, logits_processors=[OptdecodeLogitsProcessor])
    engines = SamplingParams(temperature=0.8, top_k=50, top_p=0.95, max_tokens=32)
    requests = {
        "the engine's own top-k and top-p": engines,
        "the same from us": asks(from_sampling_params(engines)),
        "entmax": asks(od.entmax(1.5)),
        "Best-of-K, drawn by us": asks(od.best_of_k(8), optdecode_seed=7),
        "once more": asks(od.best_of_k(8), optdecode_seed=7),
    }
    outputs = engine.generate([PROMPT] * len(requests), list(requests.values()), use_tqdm=False)
    for name, output in zip(requests, outputs, strict=True):
        print(f"{name}: {output.outputs[0].text}")


def asks(decoder: od.Decoder, **more: int) -> SamplingParams:
    """Ask for a decoder; all that is the engine's stays neutral."""
    return SamplingParams(max_tokens=32, extra_args={"optdecode": decoder.to_dict(), **more})


if __name__ == "__main__":
    main()
