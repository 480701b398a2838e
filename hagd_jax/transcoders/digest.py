"""Eight hexadecimal digits that tell transcoders apart."""

from __future__ import annotations

from hagd_jax.parallel import checksum
from hagd_jax.transcoders.formats.lazy import LazyTranscoder, about
from hagd_jax.transcoders.transcoder import Transcoder, require_transcoder


def digest(transcoder: Transcoder | LazyTranscoder) -> str:
    """Hash a transcoder to eight hexadecimal digits, the same on every mesh.

    Args:
        transcoder: The transcoder; all of one on disk is read, once.

    Returns:
        A checksum of every bit of the parameters that features and reconstructions depend on,
        and of what is done with them. It finds mistakes, not forgers.

    Raises:
        InputError: If it is no transcoder, or lacks a parameter.

    Example:
        >>> import jax
        >>> from hagd_jax.transcoders import TranscoderConfig, init
        >>> config = TranscoderConfig(n_layers=1, d_model=4, n_features=8, k=2)
        >>> one = init(config, jax.random.key(0))
        >>> digest(one) == digest(one.replace(config=config.replace(k=3)))
        False
    """
    if isinstance(transcoder, LazyTranscoder):
        return transcoder.digest
    require_transcoder(transcoder)
    used = {n: a for n, a in transcoder.params.items() if not n.endswith("_pred")}
    return f"{checksum(used, about(transcoder.config), mesh=transcoder.mesh):08x}"
