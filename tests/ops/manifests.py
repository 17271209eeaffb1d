"""The Kubernetes manifests: files, documents, and what kustomize makes of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster import ROOT

MANIFESTS: Final = ROOT / "k8s"
BASE: Final = MANIFESTS / "base"
MONITORING: Final = MANIFESTS / "components/monitoring"
OVERLAY: Final = MANIFESTS / "overlays/example"
KUSTOMIZATION: Final = "kustomization.yaml"

Document = dict[str, Any]


def document(file: Path) -> Document:
    """Return the one document of a file."""
    (only,) = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert isinstance(only, dict)
    return only


def listed(folder: Path) -> Iterator[Path]:
    """Yield what a kustomization names: files and other folders."""
    made = document(folder / KUSTOMIZATION)
    names = [*made.get("resources", []), *made.get("components", [])]
    names += [patch["path"] for patch in made.get("patches", [])]
    for generator in (*made.get("configMapGenerator", []), *made.get("secretGenerator", [])):
        names += [*generator.get("files", []), *generator.get("envs", [])]
    for name in names:
        yield (folder / name).resolve()


def resources(folder: Path) -> list[Document]:
    """Return the resources that a kustomization lists, those of other folders too."""
    made = document(folder / KUSTOMIZATION)
    found: list[Document] = []
    for name in (*made.get("resources", []), *made.get("components", [])):
        path = folder / name
        found += resources(path) if path.is_dir() else [document(path)]
    return found


def container(deployment: Document) -> Document:
    """Return the only container of a deployment."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@cache
def has_kustomize() -> bool:
    """Tell whether this machine has kubectl, which brings kustomize along."""
    return shutil.which("kubectl") is not None


def kustomized(folder: Path) -> list[Document]:
    """Return what the real kustomize makes of a folder."""
    command = ["kubectl", "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(made.stdout))
