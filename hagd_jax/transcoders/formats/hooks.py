"""Names that the public formats give to places in a model, and which of our sites they are.

Most names are TransformerLens's. Whether a normed value has the norm's weights in it depends on the
norm there: its LayerNorm shows the value after them, its RMSNorm before them. `mlp.hook_out` is
what the MLP itself puts out, `hook_mlp_out` what is added to the stream: Gemma 2 and 3 have a norm
in between (`ln2_post` of `TransformerBlock.apply_mlp`).

Gemma Scope 2 and SAELens name modules of Hugging Face's Gemma, `model.layers.N.<module>.output`:
the output of a norm there has the norm's weights in it.
"""

from __future__ import annotations

import dataclasses
import re

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError
from hagd_jax.transcoders.config import Reads, Writes


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
_WRITTEN: dict[str, Writes] = {"mlp.hook_out": "mlp_out_raw", "hook_mlp_out": "mlp_out"}
_MODULE_READ = {
    "pre_feedforward_layernorm.output": Reading("mlp_in"),
    "mlp.input": Reading("mlp_in"),
}
_MODULE_WRITTEN: dict[str, Writes] = {
    "post_feedforward_layernorm.output": "mlp_out", "mlp.output": "mlp_out_raw",
}  # fmt: skip
_BLOCK = re.compile(r"blocks\.([^.]*)\.(.+)")
_MODULE = re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d{1,6}|\{all\})\.(.+)")
# What a folder that we write calls each of them.
OUT: dict[Writes, str] = {writes: name for name, writes in _WRITTEN.items()}


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
        >>> reading("model.layers.3.pre_feedforward_layernorm.output", "config.json").site
        'mlp_in'
    """
    table = _MODULE_READ if _MODULE.fullmatch(str(hook)) else _READ
    name = split(hook)[1]
    if name not in table:
        raise ConfigError(what, got=quoted(hook), expected=f"one of {', '.join(table)}")
    return table[name]


def writing(hook: object, what: str) -> Writes:
    """Translate an output hook to what is reconstructed.

    Args:
        hook: Its name, of one block or of none in particular.
        what: Where the name was found, for the message.

    Returns:
        The value of `TranscoderConfig.writes`.

    Raises:
        ConfigError: If it is another place than the MLP's output.

    Example:
        >>> writing("hook_mlp_out", "config.yaml"), writing("mlp.hook_out", "config.yaml")
        ('mlp_out', 'mlp_out_raw')
    """
    table = _MODULE_WRITTEN if _MODULE.fullmatch(str(hook)) else _WRITTEN
    name = split(hook)[1]
    if name not in table:
        raise ConfigError(what, got=quoted(hook), expected=f"one of {', '.join(table)}")
    return table[name]


def split(hook: object) -> tuple[str, str]:
    """Split a hook's name into its block, empty if it names none, and the rest.

    Example:
        >>> split("blocks.3.hook_mlp_out")
        ('3', 'hook_mlp_out')
        >>> split("model.layers.{all}.pre_feedforward_layernorm.output")
        ('{all}', 'pre_feedforward_layernorm.output')
    """
    found = _BLOCK.fullmatch(str(hook)) or _MODULE.fullmatch(str(hook))
    return (found[1], found[2]) if found else ("", str(hook))
