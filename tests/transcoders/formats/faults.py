"""How a damaged folder must be refused."""

import pytest

from hagd_jax.errors import HagdError
from hagd_jax.transcoders import load


def damage_name(value):
    """Names a test by the function that damages a folder."""
    return value.__name__.strip("_") if callable(value) else ""


def assert_refused(folder, damage, kind, words):
    damage(folder)
    with pytest.raises(HagdError, match=words) as caught:
        load(folder)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
