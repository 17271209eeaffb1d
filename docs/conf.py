"""How Sphinx makes a site of these documents: `scripts/docs`.

The source folder is the whole clone, so that links to files beside this folder hold. The documents
are for whoever reads them as they are, too: the navigation is the table of index.md.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from daisi_ws import __version__

project = "daisi-ws"
release = version = __version__
project_copyright = "the daisi-ws authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "bench/README.md", "docs/*.md"]
html_theme = "furo"
html_title = f"daisi-ws {release}"
html_copy_source = html_show_sourcelink = False
html_extra_path = ["site"]
highlight_language = "none"
myst_heading_anchors = 4

_PAGE = re.compile(r"^\| \[[^]]+\]\(([^)]+)\.md\)", re.MULTILINE)


def navigation(index: str) -> str:
    """Return a table of contents: the pages in the table of index.md, in its order."""
    return "\n".join(["```{toctree}", ":hidden:", "", *_PAGE.findall(index), "```", ""])


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] += "\n" + navigation(source[0])


def setup(app: Sphinx) -> None:
    """Have Sphinx call what is defined here."""
    app.connect("source-read", _add_navigation)
