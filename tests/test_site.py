"""The documents make a site without a fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ALL, INDEX, ROOT, links


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made with every warning an error."""
    out, trees = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("trees")
    options = ["-W", "--keep-going", "-q", "-c", str(ROOT / "docs"), "-d", str(trees)]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT), str(out)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return out


def page(site: Path, document: Path) -> Path:
    """Return where a document's page is."""
    return site / document.relative_to(ROOT).with_suffix(".html")


def test_every_document_is_a_page_in_the_navigation(site: Path) -> None:
    """The navigation is the table of the index, in its order."""
    assert all(page(site, document).exists() for document in ALL)
    begins = page(site, INDEX).read_text(encoding="utf-8").partition('class="sidebar-tree"')[2]
    navigation = begins.partition("</div>")[0]
    places = [navigation.find(f'href="{target[:-3]}.html"') for target in links(INDEX)]
    assert -1 not in places
    assert places == sorted(places)


def test_pictures_come_with_the_site(site: Path) -> None:
    """A page shows them without the clone."""
    made = {picture.name for picture in (site / "_images").iterdir()}
    assert {picture.name for picture in (ROOT / "docs/images").glob("*.svg")} <= made


def test_the_site_opens_at_its_index(site: Path) -> None:
    """The root leads there."""
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
