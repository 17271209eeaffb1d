"""What gets installed: everything that is needed, nothing else, and one version."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import daisi_ws

ROOT = Path(__file__).parents[1]
SOURCES = ("daisi_ws", "setup.cfg", "pyproject.toml", "LICENSE", "README.md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building leaves files behind."""
    clone = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, clone)
    return clone


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel that `pip install .` makes."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", clone, clone], check=True)
    with zipfile.ZipFile(next(clone.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_has_every_file_of_the_package(wheel: zipfile.ZipFile, clone: Path) -> None:
    """Modules, Lua scripts, generated code and the type marker; no tests, no scripts."""
    expected = {
        str(file.relative_to(clone))
        for file in (clone / "daisi_ws").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    packaged = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packaged == expected
    assert "daisi_ws/py.typed" in packaged
    assert "daisi_ws/adapters/pb/dws_message_fwd_pb2_grpc.py" in packaged


def test_the_wheel_says_version_licence_and_command(wheel: zipfile.ZipFile) -> None:
    """The version comes from the package; the console script is there."""
    info = f"daisi_ws-{daisi_ws.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "daisi-ws = daisi_ws.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def imported_modules() -> set[str]:
    """Return the top-level names that the package imports, wherever it does."""
    found: set[str] = set()
    for file in (ROOT / "daisi_ws").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name.partition(".")[0] for name in found} - {"daisi_ws"} - sys.stdlib_module_names


def test_every_import_is_a_declared_requirement() -> None:
    """Nothing is there only because something else happens to bring it along."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].strip().splitlines()
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = importlib.metadata.packages_distributions()
    for module in imported_modules():
        names = {canonicalize_name(name) for name in providers[module]}
        assert names & declared, f"{module} is imported, but none of {names} is required"
