"""The house's one-way arrows: sr.py, infer.py → core → model, sparse, data; and within these no cycles."""

import ast
import importlib.util

import pytest

PACKAGES = ("core", "data", "model", "sparse")
ALLOWED = {"data": {"data"}, "model": {"model"}, "sparse": {"sparse"}, "core": set(PACKAGES)}


def modules_of(root, package):
    """{module: its syntax tree} of a package and the packages in it."""
    modules = {}
    for file in sorted((root / package).rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = ast.parse(file.read_text(encoding="utf-8"))
    return modules


def imports_of(nodes, module, modules):
    """The modules and packages that import statements name; `from a import b` names a.b where that is a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), module)
            inner = {f"{source}.{alias.name}" for alias in node.names} & modules.keys()
            yield from inner or {source}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package, pytestconfig):
    modules = modules_of(pytestconfig.rootpath, package)
    assert modules
    for module, tree in modules.items():
        named = {name.partition(".")[0] for name in imports_of(ast.walk(tree), module, modules)}
        wrong = named & {*PACKAGES, "benchmarks", "tests", "sr", "infer"} - ALLOWED[package]
        assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks"])
def test_no_cycles_within_a_package(package, pytestconfig):
    """Modules, those of packages within too, can be put in an order in which each imports only earlier ones. Imports
    inside functions count as those at the top do."""
    modules = modules_of(pytestconfig.rootpath, package)
    within = {"model": "model.fast.blocks", "core": "core.config.sections", "benchmarks": "benchmarks.helpers.options"}
    assert within.get(package, package) in modules
    needs = {
        module: {name for name in imports_of(ast.walk(tree), module, modules) if name in modules} - {module}
        for module, tree in modules.items()
    }
    while needs:
        free = [module for module, others in needs.items() if not others & needs.keys()]
        assert free, f"cycle in {package}: {sorted(needs)}"
        for module in free:
            del needs[module]


def test_core_does_not_draw(pytestconfig):
    """matplotlib is a requirement of the benchmarks alone."""
    for package in PACKAGES:
        modules = modules_of(pytestconfig.rootpath, package)
        for module, tree in modules.items():
            named = {name.partition(".")[0] for name in imports_of(ast.walk(tree), module, modules)}
            assert "matplotlib" not in named and "torchvision" not in named, module
