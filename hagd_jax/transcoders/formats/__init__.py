"""Public formats of transcoders: one file each, and `load` and `save` over all of them.

`per_layer` and `cross_layer` are circuit-tracer's, read and written; `sparsify`, `saelens` and
`gemma_scope` are read. `hooks` translates the names of places. `finding` and `stored` look a folder
over without reading its weights; `options` says which fields a configuration may have.
"""

from hagd_jax.transcoders.formats.lazy import LazyTranscoder, open_lazy
from hagd_jax.transcoders.formats.loading import check_model, load
from hagd_jax.transcoders.formats.saving import save

__all__ = ["LazyTranscoder", "check_model", "load", "open_lazy", "save"]
