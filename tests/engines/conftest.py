"""The embedded model as the engines read it, made once a session."""

from pathlib import Path

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
