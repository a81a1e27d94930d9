"""The README's picture of the demo, against what the demo's questions find now."""

from __future__ import annotations

import html
import re

import pytest

from tests.docs.blocks import NUMBER, ROOT
from tools.picture import main


def words(svg):
    shown = html.unescape(" ".join(re.findall(r"<text[^>]*>(.*?)</text>", svg.read_text("utf-8"), re.DOTALL)))
    return " ".join(shown.split())


@pytest.mark.integration
def test_the_picture_shows_what_the_demo_finds(tmp_path):
    main(tmp_path / "demo.svg")
    made, kept = words(tmp_path / "demo.svg"), words(ROOT / "docs" / "images" / "demo.svg")
    assert NUMBER.sub("#", made) == NUMBER.sub("#", kept)
    pairs = zip(NUMBER.findall(made), NUMBER.findall(kept), strict=True)
    assert all(abs(float(left) - float(right)) <= 0.02 for left, right in pairs)
