"""The house's one-way arrows: sr.py, infer.py → core → model, sparse, data."""

import ast

import pytest

PACKAGES = ("core", "data", "model", "sparse")
ALLOWED = {"data": {"data"}, "model": {"model"}, "sparse": {"sparse"}, "core": set(PACKAGES)}


def imported_packages(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package, pytestconfig):
    files = sorted((pytestconfig.rootpath / package).glob("*.py"))
    assert files
    for file in files:
        wrong = {name for name in imported_packages(file) if name in PACKAGES} - ALLOWED[package]
        assert not wrong, f"{file.name} imports {wrong}"


def test_no_cycles_within_a_package(pytestconfig):
    """Modules of a package can be put in an order in which each imports only earlier ones."""
    for package in PACKAGES:
        folder = pytestconfig.rootpath / package
        modules = {file.stem: file for file in folder.glob("*.py") if file.stem != "__init__"}
        needs = {}
        for name, file in modules.items():
            tree = ast.parse(file.read_text())
            froms = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
            needs[name] = {module.split(".")[1] for module in froms if module.startswith(f"{package}.")} - {name}
        while needs:
            free = [name for name, others in needs.items() if not others & needs.keys()]
            assert free, f"cycle in {package}: {sorted(needs)}"
            for name in free:
                del needs[name]
