"""Names that the public formats give to places in a model, and which of our sites they are.

The names are TransformerLens's. Whether a normed value has the norm's weights in it depends on the
norm there: its LayerNorm shows the value after them, its RMSNorm before them.
"""

from __future__ import annotations

import dataclasses
import re

from hagd_jax.errors import ConfigError
from hagd_jax.transcoders.config import Reads
from hagd_jax.transcoders.formats.options import clipped


@dataclasses.dataclass(frozen=True)
class Reading:
    """A reading describes what the features of a folder read.

    Attributes:
        site: The site.
        unweighted: Whether the value lacks the norm's weights where the norm is an RMSNorm.
    """

    site: Reads
    unweighted: bool = False


_READ = {
    "mlp.hook_in": Reading("mlp_in"),
    "ln2.hook_normalized": Reading("mlp_in", unweighted=True),
    "hook_resid_mid": Reading("resid_mid"),
    # Before the norm, in spite of its name.
    "hook_mlp_in": Reading("resid_mid"),
}
_WRITTEN = ("mlp.hook_out", "hook_mlp_out")
_BLOCK = re.compile(r"blocks\.([^.]*)\.(.+)")
# Their blocks put a norm between the MLP and the residual stream, and `hook_mlp_out` after it.
_POST_NORM = re.compile(r"gemma-?[23]|olmo-?[23]", re.IGNORECASE)


def reading(hook: object, what: str) -> Reading:
    """Translate an input hook to one of our sites.

    Args:
        hook: Its name, of one block or of none in particular.
        what: Where the name was found, for the message.

    Returns:
        The site, and whether it is before the norm's weights.

    Raises:
        ConfigError: If there is no such site here.

    Example:
        >>> reading("blocks.3.mlp.hook_in", "config.yaml").site
        'mlp_in'
    """
    name = split(hook)[1]
    if name not in _READ:
        raise ConfigError(what, got=clipped(hook), expected=f"one of {', '.join(_READ)}")
    return _READ[name]


def require_output(hook: object, model_name: object, what: str) -> None:
    """Refuse an output hook other than the MLP's output as added to the residual stream.

    Args:
        hook: Its name, of one block or of none in particular.
        model_name: The model that the folder says it is for.
        what: Where the name was found, for the message.

    Raises:
        ConfigError: If it is another place, or a norm follows the MLP in that model.
    """
    name = split(hook)[1]
    if name not in _WRITTEN:
        raise ConfigError(what, got=clipped(hook), expected=f"one of {', '.join(_WRITTEN)}")
    if name == "hook_mlp_out" and _POST_NORM.search(str(model_name)):
        raise ConfigError(
            what,
            got=f"{hook!r} of {model_name}, which is after a norm of the MLP's output",
            expected="the output of the MLP itself",
            mend="Models with such a norm are not supported.",
        )


def split(hook: object) -> tuple[str, str]:
    """Split a hook's name into its block, empty if it names none, and the rest.

    Example:
        >>> split("blocks.3.hook_mlp_out")
        ('3', 'hook_mlp_out')
    """
    found = _BLOCK.fullmatch(str(hook))
    return (found[1], found[2]) if found else ("", str(hook))
