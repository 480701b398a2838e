"""Read external YAML mappings without references or tags, within bounds checked beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hagd_jax.brief import quoted, said
from hagd_jax.errors import CheckpointError, HagdError, shown
from hagd_jax.files.parsing import YAML, Bounds, plain
from hagd_jax.files.reading import named, read_text


def read_yaml(
    path: str | Path, bounds: Bounds = YAML, error: type[HagdError] = CheckpointError
) -> dict[str, Any]:
    """Read a small YAML file that holds a mapping.

    Anchors, aliases, tags and deep nesting are refused, since a few hundred bytes of them can
    exhaust the memory or the stack.

    Args:
        path: The file.
        bounds: Largest size, depth and number of values.
        error: The class of error to raise.

    Returns:
        The mapping, with plain values.

    Raises:
        HagdError: Of the given class, if the file cannot be read or is not such a mapping.
    """
    import yaml

    where, text = named(path), read_text(path, bounds.size, error)
    try:
        _require_small(yaml.parse(text, Loader=yaml.SafeLoader), bounds, where, error)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _require_once(node, where, error)
        value = None if node is None else loader.construct_document(node)
    # Numbers with too many digits and impossible dates raise a plain ValueError.
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as problem:
        if isinstance(problem, HagdError):
            raise
        raise error(where, got=said(problem), expected="a YAML file") from problem
    if not isinstance(value, dict):
        raise error(where, got=shown(value), expected="a YAML mapping")
    return plain(value, where, error)


def _require_small(events: Any, bounds: Bounds, where: str, error: type[HagdError]) -> None:
    """Refuse YAML beyond the bounds, from its events, before any value is built."""
    import yaml

    depth = 0
    for count, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > bounds.depth:
            raise error(where, got="deep nesting", expected=f"at most {bounds.depth} levels")
        if count >= bounds.items:
            raise error(where, got=f"more than {bounds.items:,} values", expected="fewer")
        if getattr(event, "anchor", None) is not None:
            raise error(where, got="an anchor or a reference to one", expected="plain values")
        if getattr(event, "tag", None) is not None:
            raise error(where, got=f"the tag {quoted(event.tag)}", expected="plain values")


def _require_once(node: Any, where: str, error: type[HagdError]) -> None:
    """Refuse duplicate names in a mapping, of which the loader would keep only the last."""
    names = set()
    pairs = node.value if node is not None and node.id == "mapping" else ()
    for name, value in pairs:
        if not isinstance(name.value, str) or name.value == "<<":
            raise error(where, got="a name that is not a text", expected="texts as names")
        if name.value in names:
            raise error(where, got=f"the name {quoted(name.value)} twice", expected="each once")
        names.add(name.value)
        _require_once(value, where, error)
    for item in node.value if node is not None and node.id == "sequence" else ():
        _require_once(item, where, error)
