"""Public formats of transcoders: one file each, and `load` and `save` over all of them.

`per_layer` and `cross_layer` are circuit-tracer's, read and written; `sparsify` and `saelens` are
read. `finding` and `stored` look a folder over without reading its weights; `options` says which
fields a configuration may have.
"""

from hagd_jax.transcoders.formats.loading import check_model, load
from hagd_jax.transcoders.formats.saving import save

__all__ = ["check_model", "load", "save"]
