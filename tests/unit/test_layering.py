"""The one-way rule: a module may import its own layer and those to the left of it (CONTRIBUTING, "Layers")."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import optdecode

# Left to right. "name.*" is a package with all that is in it.
LAYERS: dict[str, list[str]] = {
    "spec": ["errors", "_status", "_spec", "regularizers.*", "supports", "constraints", "_problem"],
    "plan": ["_plan", "_lowering", "_curvature", "_explain"],
    "backends": [
        "_core",
        "_inputs",
        "_tensor_inputs",
        "_system",
        "_certificate",
        "_certificate_problem",
        "_certificate_terms",
        "_user_certificate",
        "_checks",
        "backends.*",
    ],
    "decoder": ["_solution", "_codes", "_decoder", "_batch", "presets", "_parse"],
    "uses": [
        "_bench.*",
        "cli.*",
        "integrations.*",
        "models.*",
        "multisample",
        "plot.*",
        "scores",
        "testing",
        "__main__",
    ],
}
# What must not know each other at all, inside functions neither: module, and what it may not import.
INDEPENDENT = [
    *((f"_certificate{part}", stranger) for part in ("", "_problem", "_terms") for stranger in ("_core", "backends")),
    *(("_user_certificate", stranger) for stranger in ("_core", "backends", "_checks")),
    *((f"backends.{name}", "_core") for name in ("reference", "_reference_solvers", "_reference_separable", "torch")),
]
# What only the last layer may import at top level, and the package that is named after it.
HEAVY = {"torch", "onnxruntime", "tokenizers", "rich", "matplotlib", "transformers", "vllm", "llama_cpp", "sglang"}

PACKAGE = Path(optdecode.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
RANK = {layer: rank for rank, layer in enumerate(LAYERS)}


def layer_of(module: str) -> str | None:
    """Return the layer of `module` (named without the leading ``optdecode.``)."""
    for layer, patterns in LAYERS.items():
        for pattern in patterns:
            if module == pattern.removesuffix(".*") or (
                pattern.endswith(".*") and module.startswith(pattern.removesuffix("*"))
            ):
                return layer
    return None


def names(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    """Return the dotted name of everything an import statement in `module` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    source = node.module or ""
    if node.level:
        inside = "/__init__.py" in MODULES[module].as_posix()
        package = ["optdecode", *module.split(".")][: None if inside and node.level == 1 else (inside - node.level)]
        source = ".".join([*package, *source.split(".")]).rstrip(".")
    return [f"{source}.{alias.name}" for alias in node.names]


def top_level_imports(module: str) -> Iterator[str]:
    """Yield the dotted name of everything that importing `module` imports."""

    def visit(body: list[ast.AST]) -> Iterator[str]:
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from names(node, module)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                yield from visit(node.orelse)
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from visit(list(ast.iter_child_nodes(node)))

    yield from visit(list(ast.iter_child_nodes(parse(module))))


def parse(module: str) -> ast.Module:
    """Return the syntax tree of `module`."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_every_module_imports_leftward(module: str) -> None:
    layer = layer_of(module)
    assert layer is not None, f"{module} is in no layer: give it one in LAYERS"
    for imported in top_level_imports(module):
        root, _, inside = imported.partition(".")
        if root in HEAVY:
            own = f"{module}.".startswith(f"backends.{root}.")
            assert layer == "uses" or own, f"{module} ({layer}) imports {root} at top level"
        if root != "optdecode":
            continue
        other = layer_of(inside) or layer_of(inside.rpartition(".")[0])  # a module, or a name in one
        assert other is not None, f"{module} imports {imported}: take names from the module that defines them"
        assert RANK[other] <= RANK[layer], f"{module} ({layer}) imports {imported} ({other}), which is to its right"


def test_the_torch_backend_is_loaded_only_when_it_runs() -> None:
    inside = "backends.torch"
    for module in MODULES:
        if not f"{module}.".startswith(f"{inside}."):
            imported = [name for name in top_level_imports(module) if f"{name}.".startswith(f"optdecode.{inside}.")]
            assert not imported, f"{module} imports {imported} at top level"


@pytest.mark.parametrize(("module", "stranger"), INDEPENDENT)
def test_independent_code_stays_independent(module: str, stranger: str) -> None:
    for name in (name for name in MODULES if name == module or name.startswith(f"{module}.")):
        for node in ast.walk(parse(name)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for imported in names(node, name):
                    assert not f"{imported}.".startswith(f"optdecode.{stranger}."), f"{name} imports {imported}"


def test_the_package_itself_imports_nothing_heavy() -> None:
    for imported in top_level_imports("__init__"):
        root, _, inside = imported.partition(".")
        assert root not in HEAVY
        assert root != "optdecode" or (layer_of(inside) or layer_of(inside.rpartition(".")[0])) != "uses"


def test_no_layer_names_a_module_that_is_gone() -> None:
    known = [*MODULES, "_core"]
    for patterns in LAYERS.values():
        for pattern in patterns:
            assert pattern.removesuffix(".*") in known, f"LAYERS names {pattern}, which does not exist"
