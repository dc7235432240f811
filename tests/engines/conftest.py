"""The embedded model as the engines read it, made once a session."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts.export_dagmod import export


@pytest.fixture(scope="session")
def dagmod_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The transformers checkpoint folder and the GGUF file."""
    return export(tmp_path_factory.mktemp("dagmod"))


@pytest.fixture(scope="session")
def dagmod_checkpoint(dagmod_files: tuple[Path, Path]) -> Path:
    """A folder for `AutoModelForCausalLM.from_pretrained` and `vllm.LLM`."""
    return dagmod_files[0]


@pytest.fixture(scope="session")
def dagmod_gguf(dagmod_files: tuple[Path, Path]) -> Path:
    """A file for `llama_cpp.Llama`."""
    return dagmod_files[1]


@pytest.fixture(scope="session")
def dagmod_llama(dagmod_gguf: Path) -> Iterator[Any]:
    """The model in llama.cpp, one thread, all logits kept."""
    import llama_cpp  # here: the tests of other engines run without it

    model = llama_cpp.Llama(str(dagmod_gguf), n_ctx=256, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False)
    yield model
    model.close()
