"""Every page is written in the one frame, which alone has the policy and the scripts."""

from pathlib import Path

import pytest

from hagd_jax.report import html

TEMPLATES = Path(html.__file__).parent / "templates"
PAGES = [path.name.replace(".js", "") for path in sorted(TEMPLATES.glob("*.js.html"))]
PAGES = [name for name in PAGES if (TEMPLATES / name).exists()]


def test_there_are_pages():
    assert {"page.html", "graph.html", "transcoder.html", "validation.html"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_leaves_head_policy_and_scripts_to_the_frame(name):
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    assert text.startswith('{% extends "frame.html" %}')
    for own in ("<head", "<script", "<meta", "Content-Security-Policy", "<footer"):
        assert own not in text


def test_data_cannot_end_its_island():
    hostile = "</script><script>alert(1)</script>"
    shown = {"layers": [], "plots": {}, "stats": [], "embedded": 0, "total": 0}
    text = html.render(
        "transcoder", title=hostile, claim=hostile, islands={"figures": {}, "cards": [hostile]},
        facts={"command": hostile, "model": hostile, "secret": "kept back"}, hidden=("secret",),
        config="{}", **shown,
    )  # fmt: skip
    assert "<script>alert(1)" not in text
    assert text.count("alert(1)") >= 5
    assert "kept back" not in text
