"""What an installation holds. `.ci/run` runs this file a second time, on the wheel."""

import re
from importlib import metadata, resources

import pytest

MODEL_BYTES = 6 * 2**20
PACKAGE = resources.files("optdecode")
DISTRIBUTION = metadata.distribution("optdecode")


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi"])
def test_type_information_is_installed(name: str) -> None:
    assert PACKAGE.joinpath(name).is_file()


def test_the_embedded_model_is_installed_and_small() -> None:
    files = [file for file in PACKAGE.joinpath("models", "data").iterdir() if file.is_file()]
    sizes = {file.name: len(file.read_bytes()) for file in files}
    assert "tokenizer.json" in sizes
    assert any(name.endswith(".onnx") for name in sizes)
    assert sum(sizes.values()) <= MODEL_BYTES, sizes


def test_numpy_is_the_only_mandatory_dependency() -> None:
    mandatory = [line for line in DISTRIBUTION.requires or [] if "extra ==" not in line]
    assert [re.match(r"[\w.-]+", line)[0] for line in mandatory] == ["numpy"]


def test_the_command_is_installed() -> None:
    (entry,) = [entry for entry in DISTRIBUTION.entry_points if entry.group == "console_scripts"]
    assert entry.name == "optdecode"
    assert callable(entry.load())


def test_there_is_one_version() -> None:
    import optdecode

    assert optdecode.__version__ == DISTRIBUTION.version
