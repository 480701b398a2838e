"""Compile programs for TPU slices that are not attached to this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hagd_jax import parallel
from hagd_jax.transcoders import TranscoderConfig, abstract, training
from hagd_jax.transcoders.training import optimizer
from hagd_jax.transcoders.training.normalise import Normalisation

Slices = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """Program is a function with its abstract arguments, sharded over a mesh.

    Attributes:
        function: The function to compile.
        args: Abstract arguments; the first is donated if `places` is given.
        places: Shardings of the first output, which reuses the memory of the first argument.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    places: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """Return the options for `jax.jit`."""
        if self.places is None:
            return {}
        return {"out_shardings": (self.places, None), "donate_argnums": (0,)}

    def lower(self) -> jax.stages.Lowered:
        """Trace the program for the mesh of its arguments, without compiling it."""
        return jax.jit(self.function, **self.options).lower(*self.args)

    def plan(self, topology: str, mesh: jax.sharding.Mesh) -> parallel.Plan:
        """Compile the program for a slice, and account for its memory."""
        return parallel.plan(self.function, self.args, topology=topology, mesh=mesh, **self.options)


def account(plan: parallel.Plan) -> dict[str, Any]:
    """Return a plan as a row of a record."""
    return dataclasses.asdict(plan) | {"total": plan.total, "fits": plan.fits}


def abstract_array(
    mesh: jax.sharding.Mesh, shape: tuple[int, ...], axes: tuple, dtype: Any = jnp.float32
) -> Any:
    """Return an abstract array, sharded by the logical names of its axes."""
    place = parallel.sharding(mesh, axes, shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def replicated(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Return a tree of abstract arrays, replicated on every device of the mesh."""
    whole = parallel.sharding(mesh, (), ())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)


def layout(tree: Any) -> Any:
    """Return the shardings of a tree of abstract arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def abstract_state(config: TranscoderConfig, mesh: jax.sharding.Mesh) -> training.TrainState:
    """Return an abstract `TrainState`; moments are sharded like their parameters."""
    params = abstract(config, mesh=mesh).params

    def rest(params: Any) -> training.TrainState:
        stats = Normalisation.identity(config)
        count = (config.n_layers, config.n_features)
        return training.TrainState(
            params, optimizer.init(params), stats, jnp.int32(0),
            jax.random.key(0), jnp.zeros(count, jnp.int32), jnp.zeros(config.n_layers),
        )  # fmt: skip

    whole = parallel.sharding(mesh, (), ())

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = [getattr(key, "key", None) for key in path]
        like = next((params[name] for name in names if name in params), None)
        sharding = whole if like is None else like.sharding
        if "unfired" in jax.tree_util.keystr(path):
            sharding = parallel.sharding(mesh, ("layers", "features"), leaf.shape, name="unfired")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(rest, params))
