"""The exported files give the embedded model's logits in the real engines."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optdecode.models import EmbeddedModel, dagmod

pytestmark = pytest.mark.engine

PROBLEMS = dagmod.generate(8, seed=0)
# Float32 on both sides, sums in other orders; logits reach 10.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def embedded() -> EmbeddedModel:
    return EmbeddedModel(threads=1)


def last_logits(embedded: EmbeddedModel, ids: list[int]) -> np.ndarray:
    return embedded.start([ids])[0][0]


def test_llama_cpp_gives_the_embedded_models_logits(embedded: EmbeddedModel, dagmod_gguf: Path) -> None:
    f32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # the cache is float16 by default
    model = llama_cpp.Llama(str(dagmod_gguf), n_ctx=256, logits_all=True, n_threads=1, verbose=False, **f32)
    for problem in PROBLEMS:
        ids = embedded.encode(problem.prompt)
        model.reset()
        model.eval(ids)
        for length in (len(ids), len(ids) - 7):
            np.testing.assert_allclose(model.scores[length - 1], last_logits(embedded, ids[:length]), atol=TOLERANCE)


def test_llama_cpp_reads_and_writes_the_words(embedded: EmbeddedModel, dagmod_gguf: Path) -> None:
    model = llama_cpp.Llama(str(dagmod_gguf), vocab_only=True, verbose=False)
    assert (model.n_vocab(), model.token_bos(), model.token_eos()) == (1024, 1, 2)
    for problem in PROBLEMS:
        ids = embedded.encode(problem.prompt)
        assert model.tokenize(problem.prompt.encode()) == ids
        assert model.detokenize(ids).decode() == embedded.decode(ids)
    assert model.tokenize(b"c = <x003> ; ! 1") == embedded.encode("c = <x003> ; ! 1")
    every = [1, *range(4, 1024)]  # after <bos> llama.cpp drops the first word's space
    assert model.detokenize(every).decode() == embedded.decode(every)


def test_transformers_gives_the_embedded_models_logits(embedded: EmbeddedModel, dagmod_checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dagmod_checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(dagmod_checkpoint)
    for problem in PROBLEMS:
        ids = embedded.encode(problem.prompt)
        assert tokenizer(problem.prompt).input_ids == ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
        np.testing.assert_allclose(logits, last_logits(embedded, ids), atol=TOLERANCE)
