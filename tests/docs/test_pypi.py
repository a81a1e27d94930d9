"""README.md as PyPI shows it, where no file lies beside it."""

from __future__ import annotations

import re
import tomllib

from markdown_it import MarkdownIt

from tests.docs.blocks import ROOT


def test_the_page_on_pypi_links_to_nothing_that_is_not_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    readme = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join((ROOT / fragment["path"]).read_text("utf-8") for fragment in readme["fragments"])
    for one in readme["substitutions"]:
        text, count = re.subn(one["pattern"], one["replacement"], text)
        assert count, f"{one['pattern']} finds nothing"
    tokens = [part for token in MarkdownIt().enable("table").parse(text) for part in [token, *(token.children or [])]]
    targets = [target for token in tokens for name in ("href", "src") if (target := token.attrGet(name))]
    assert [target for target in targets if not str(target).startswith("https://")] == []
