"""Whether a transcoder, a model and what was traced of it belong together."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from hagd_jax.errors import InputError, require_is
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.transcoders.config import TranscoderConfig
from hagd_jax.transcoders.transcoder import Transcoder, require_transcoder


def site_of(trace: Mapping[str, jax.Array], site: str) -> jax.Array:
    """Read a captured site from a trace.

    Raises:
        InputError: If it was not captured.
    """
    require_is("trace", trace, Mapping)
    if site not in trace:
        raise InputError(
            "trace", got=sorted(trace), expected=repr(site), mend="Add it to `capture`."
        )
    return trace[site]


def require_fit(config: TranscoderConfig, decoder: DecoderConfig) -> None:
    """Refuse a transcoder made for another model.

    Raises:
        InputError: If layers or widths differ.
    """
    theirs, ours = (config.n_layers, config.d_model), (decoder.n_layers, decoder.d_model)
    if theirs != ours:
        raise InputError(
            "transcoder",
            got=f"one for {theirs[0]} layers of d_model {theirs[1]}",
            expected=f"one for {ours[0]} layers of d_model {ours[1]}, as the model has",
        )


def require_pair(transcoder: Transcoder, model: LanguageModel) -> None:
    """Refuse a transcoder and a model of the wrong classes, or that do not belong together.

    Raises:
        InputError: Naming the argument.
    """
    require_transcoder(transcoder)
    require_is("model", model, LanguageModel)
    require_fit(transcoder.config, model.config)
