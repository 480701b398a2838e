"""Models of noise, and models on meshes."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import LanguageModel, abstract
from hagd_jax.models.decoder import param_specs


def noisy(config, seed=0):
    """A model whose every parameter is noise; unlike `init`, nothing is compiled for it."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, spec in param_specs(config).items():
        scale = 0.1 if path.endswith(("scale", "bias")) else spec.shape[-2] ** -0.5
        values = path.endswith("scale") + scale * rng.normal(size=spec.shape)
        flat[path] = jnp.asarray(values, jnp.float32)
    return LanguageModel(flax.traverse_util.unflatten_dict(flat, sep="/"), config, name="noise")


def on_mesh(model, mesh):
    """The same model, laid out on a mesh."""
    layout = abstract(model.config, mesh=mesh).params
    place = lambda x, like: jax.device_put(x, like.sharding)  # noqa: E731
    return model.replace(params=jax.tree.map(place, model.params, layout), mesh=mesh)
