"""A Dockerfile without a container engine: its instructions, and its build stage in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import ROOT

DOCKERFILE: Final = ROOT / "Dockerfile"
IGNORED: Final = ROOT / ".dockerignore"
INSTALLED: Final = "/opt/daisi-ws"

SITE: Final = sysconfig.get_path("purelib")
"""Where the packages are that the tests run with."""


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    name: str
    words: str


def stages() -> list[list[Step]]:
    """Return the instructions of each stage, from its FROM on."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = text.replace("\\\n", " ").splitlines()
    found: list[list[Step]] = []
    for line in filter(str.strip, lines):
        name, _, words = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Step(name, words.strip()))
    return found


def words_of(stage: list[Step], name: str) -> list[str]:
    """Return what stands behind an instruction, each time it is given."""
    return [step.words for step in stage if step.name == name]


def context(folder: Path) -> Path:
    """Copy what the engine would be sent, by `.dockerignore`."""
    everything, *patterns = re.sub(r"(?m)^#.*\n", "", IGNORED.read_text()).split()
    assert everything == "*", "what is not named stays out"
    out = [pattern.removeprefix("**/") for pattern in patterns if not pattern.startswith("!")]
    for pattern in patterns:
        if pattern.startswith("!"):
            source, target = ROOT / pattern[1:], folder / pattern[1:]
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*out))
            else:
                shutil.copy(source, target)
    return folder


def build(stage: list[Step], sent: Path, folder: Path) -> Path:
    """Run a stage's COPY and RUN in a folder; return where `/opt/daisi-ws` is.

    Nothing is fetched: the packages that it would install are those that the tests run with.
    """
    place = folder / INSTALLED[1:]
    work = folder
    for step in stage:
        match step.name:
            case "WORKDIR":
                work = folder / step.words[1:]
                work.mkdir(parents=True)
            case "COPY":
                *sources, target = step.words.split()
                for source in sources:
                    _copy(sent / source, work / target)
            case "RUN":
                command = step.words.replace(INSTALLED, str(place))
                subprocess.run(["sh", "-ec", command], check=True, cwd=work, env=environment())
    return place


def environment() -> Mapping[str, str]:
    """Return an environment in which pip installs the project from what is there already."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAISI_WS_", "PYTHON"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": SITE,
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # an option of the kind "no": 0 switches isolation off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_IGNORE_INSTALLED": "1",
    }


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
