"""Each module of the package can be imported alone, and none imports another one in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maskprobe

PACKAGE = Path(maskprobe.__file__).parent
MODULES = sorted(
    ".".join(["maskprobe", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports when it is loaded itself."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text("utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                name = ".".join([*base, alias.name])
                found.add(name if name in MODULES else ".".join(base))
    return found


def test_there_are_no_circles():
    """A package's own imports come from its parts; these never import from a package that they are in."""
    left = {module: imported(module) - {module} for module in MODULES}
    commands = {module for module in MODULES if module.startswith("maskprobe.cli")}  # they are users of the package
    for module in commands:
        left[module] -= {"maskprobe"}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left


@pytest.mark.parametrize("module", MODULES)
def test_a_module_alone(module):
    code = f"import importlib; importlib.import_module({module!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if "matplotlib" in done.stderr or "No module named" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
