"""What every page shares: a template engine that trusts nothing, one library, one policy."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup

from hagd_jax.report.verdict_words import LEGEND, MARKS
from hagd_jax.report.words import found_under, inert

LONG_TEXT = 20_000


@functools.cache
def environment() -> jinja2.Environment:
    """Make the template engine, which escapes every value and refuses undefined ones.

    Example:
        >>> environment().from_string("{{ x }}").render(x="<b>")
        '&lt;b&gt;'
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hagd_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else inert(value, LONG_TEXT),
    )
    made.filters["short"] = lambda value, limit=300: inert(value, limit)
    made.globals["marks"], made.globals["legend"] = MARKS, LEGEND
    made.filters["found_under"] = found_under
    return made


def render(
    name: str,
    *,
    title: str,
    islands: Mapping[str, Any],
    facts: Mapping[str, str] | None = None,
    hidden: Collection[str] = (),
    **values: Any,
) -> str:
    """Render a page in the frame that all pages share: it runs two scripts and loads nothing.

    `templates/frame.html` writes the head, the policy, the heading, where the page comes from,
    the data and the scripts (Bokeh's and the page's own); `NAME.html` fills its blocks.

    Args:
        name: Name of the page's template, without its ending; its script is `NAME.js.html`.
        title: Of the page, as text.
        islands: Element id → data that the page's scripts read, as plain JSON values.
        facts: Name → value, shown as provenance; `command` is shown as code.
        hidden: Names of facts that are not shown.
        **values: What the page shows, as `NAME.html` names it.

    Returns:
        The page; write it as UTF-8.
    """
    own = environment().get_template(f"{name}.js.html").render().strip()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src '{_digest(library())}' '{_digest(own)}'; base-uri 'none'; form-action 'none'"
    )
    facts = facts or {}
    return (
        environment()
        .get_template(f"{name}.html")
        .render(
            title=title,
            islands={place: data(value) for place, value in islands.items()},
            facts={k: v for k, v in facts.items() if k not in ("command", *hidden)},
            command=facts.get("command"),
            library=Markup(library()),
            script=Markup(own),
            policy=policy,
            **values,
        )
    )


@functools.cache
def library() -> str:
    """Return Bokeh's JavaScript, the plotting part alone."""
    raw = Resources(mode="inline", components=["bokeh"], minified=True, log_level="warn").js_raw
    return "\n".join(raw).strip()


def data(value: Any) -> Markup:
    r"""Write JSON that no HTML parser mistakes for markup.

    Example:
        >>> data({"a": "</script>"})
        Markup('{"a":"\\u003c/script\\u003e"}')
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
