"""The protocol by which values rewrite a forward pass.

An intervention is a pytree. Each array field has a role:

- `scanned`: leading axis L; inside block l a method sees slice l;
- `shared`: every block sees the whole array;
- `carried`: handed from block to block, and may be changed on the way.

Its methods are named `on_<site>(self, value, ctx) -> (value, self)`. Everything that is not an
array is static and becomes part of the compilation key, so new arrays never recompile.

Example:
    >>> @struct.dataclass
    ... class ScaleHeads(Intervention):
    ...     factor: jax.Array = scanned()  # (L, H)
    ...     def on_head_out(self, value, ctx):
    ...         return value * self.factor[:, None], self
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line, said
from hagd_jax.errors import HagdError, InputError, shown
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.sites import require_site

_ROLE = "role"
Self = TypeVar("Self", bound="Intervention")


def _role_field(role: str, kwargs: dict[str, Any]) -> Any:
    return struct.field(pytree_node=True, metadata={_ROLE: role}, **kwargs)


def scanned(**kwargs: Any) -> Any:
    """Declare a field whose arrays have a leading layer axis; block l sees slice l."""
    return _role_field("scanned", kwargs)


def shared(**kwargs: Any) -> Any:
    """Declare a field that every block sees whole."""
    return _role_field("shared", kwargs)


def carried(**kwargs: Any) -> Any:
    """Declare a field handed from block to block; methods may return `self.replace(...)`."""
    return _role_field("carried", kwargs)


def parts(**kwargs: Any) -> Any:
    """Declare a field that holds other interventions."""
    return _role_field("parts", kwargs)


def static(**kwargs: Any) -> Any:
    """Declare a hashable field that is part of the compilation key."""
    return struct.field(pytree_node=False, **kwargs)


@dataclasses.dataclass(frozen=True)
class Context:
    """The context holds what a method may read besides the value.

    Attributes:
        config: The decoder's configuration.
        index: The layer, a traced int32; −1 before the blocks, L after them.
        seen: Site → value, what this block has computed so far, after interventions.
    """

    config: DecoderConfig
    index: jax.Array
    seen: dict[str, jax.Array]

    __repr__ = one_line


class Intervention:
    """An intervention rewrites sites; subclasses are `flax.struct.dataclass`es.

    Raises:
        ConfigError: When a subclass defines `on_<name>` and there is no such site.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):
            # Found by the dataclass that is made of it: arrays are not printed.
            type.__setattr__(cls, "__repr__", one_line)
        for name in vars(cls):
            if name.startswith("on_"):
                require_site(name[3:], what=f"{cls.__name__}.{name}")

    @property
    def sites(self) -> frozenset[str]:
        """List the sites that this intervention rewrites."""
        return frozenset(name[3:] for name in dir(type(self)) if name.startswith("on_"))

    def apply(self: Self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Self]:
        """Rewrite the value of one of `sites`."""
        return getattr(self, f"on_{site}")(value, ctx)

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Check, before tracing, that this intervention fits a model and its tokens.

        Args:
            config: The decoder it shall run in.
            tokens_shape: (B, T).

        Raises:
            InputError: If an array does not fit; a subclass says so here.
        """


@struct.dataclass
class Identity(Intervention):
    """The identity changes nothing."""


@struct.dataclass
class Chain(Intervention):
    """A chain applies interventions in order at every site; build it with `chain`."""

    members: tuple[Any, ...] = parts()

    @property
    def sites(self) -> frozenset[str]:
        """Return the union of the members' sites."""
        return frozenset().union(*(member.sites for member in self.members))

    def apply(self, site: str, value: jax.Array, ctx: Context) -> tuple[jax.Array, Chain]:
        """Apply every member's method for this site, in order."""
        members = []
        for member in self.members:
            if site in member.sites:
                value, member = rewritten(member, site, value, ctx)
            members.append(member)
        return value, self.replace(members=tuple(members))  # type: ignore[attr-defined]

    def validate(self, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
        """Validate every member."""
        for member in self.members:
            member.validate(config, tokens_shape)


def chain(*members: Intervention) -> Chain:
    """Compose interventions as optax composes transformations.

    Order matters: freeze then steer moves the frozen value; steer then freeze erases the steering.

    Args:
        *members: Interventions, applied first to last at every site.

    Returns:
        One intervention.
    """
    for member in members:
        if not isinstance(member, Intervention):
            raise InputError("chain", got=type(member).__name__, expected="interventions only")
    return Chain(members=members)


def rewritten(
    intervention: Intervention, site: str, value: jax.Array, ctx: Context
) -> tuple[jax.Array, Any]:
    """Apply an intervention at a site; what fails there is an error that names both.

    Nothing of the pass has run by then: shapes are all that tracing knows.

    Args:
        intervention: The intervention, which has this site.
        site: The site.
        value: Its value.
        ctx: What a method may read besides.

    Returns:
        The new value, of the same shape, and the intervention to go on with.

    Raises:
        InputError: If the method fails on the value, or returns something of another shape.
    """
    if isinstance(intervention, Chain):
        return intervention.apply(site, value, ctx)  # every member by itself
    where, shape = f"{type(intervention).__name__}.on_{site}", jnp.shape(value)
    try:
        new, after = intervention.apply(site, value, ctx)
        found = jnp.shape(new)
    except HagdError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            where, got=f"{type(error).__name__}: {said(error)}",
            expected=f"a method that takes a value of shape {shape}, and returns (value, self)",
            mend=f"Look at the arrays of {type(intervention).__name__}: {one_line(intervention)}.",
        ) from error  # fmt: skip
    if found != shape:
        raise InputError(
            where, got=f"a value of shape {found}", expected=f"the site's shape {shape}"
        )
    if type(after) is not type(intervention):
        raise InputError(where, got=f"{shown(after)} as the second result", expected="self")
    return new, after


class Skeleton(NamedTuple):
    """A skeleton is the static part of an intervention, with the role of every array."""

    treedef: Any
    roles: tuple[str, ...]

    __repr__ = one_line

    def join(self, scanned: list, shared: list, carried: list) -> Any:
        """Put arrays back into the structure that `split` took them from."""
        pools = {"scanned": iter(scanned), "shared": iter(shared), "carried": iter(carried)}
        return jax.tree.unflatten(self.treedef, [next(pools[role]) for role in self.roles])


class Split(NamedTuple):
    """A split intervention has its arrays sorted by role, ready for a scan over layers."""

    skeleton: Skeleton
    scanned: list[jax.Array]
    shared: list[jax.Array]
    carried: list[jax.Array]

    __repr__ = one_line


def split(intervention: Intervention) -> Split:
    """Split an intervention into static structure and arrays by role.

    Args:
        intervention: Any intervention.

    Returns:
        Its `Split`; `skeleton.join(scanned, shared, carried)` is the same intervention again.
    """
    leaves, treedef = jax.tree.flatten(intervention)
    roles = tuple(role for _, role, _ in _fields(intervention))
    pools: dict[str, list[jax.Array]] = {"scanned": [], "shared": [], "carried": []}
    for leaf, role in zip(leaves, roles, strict=True):
        pools[role].append(leaf)
    return Split(Skeleton(treedef, roles), **pools)


def check(intervention: Intervention, config: DecoderConfig, tokens_shape: tuple[int, int]) -> None:
    """Check an intervention before tracing.

    Args:
        intervention: What was passed to `forward`.
        config: The decoder it shall run in.
        tokens_shape: (B, T).

    Raises:
        InputError: If it is no intervention, a scanned array does not have a leading axis of
            L layers, or its own `validate` refuses.
    """
    if not isinstance(intervention, Intervention):
        raise InputError(
            "intervention", got=type(intervention).__name__, expected="an Intervention or None"
        )
    for name, role, leaf in _fields(intervention):
        shape = np.shape(leaf)
        if role == "scanned" and (not shape or shape[0] != config.n_layers):
            raise InputError(
                name, got=f"shape {shape}", expected=f"a leading axis of {config.n_layers} layers"
            )
    intervention.validate(config, tokens_shape)


def _fields(intervention: Any) -> Iterator[tuple[str, str, Any]]:
    """(name, role, leaf) of every array, in the order in which JAX flattens them."""
    owner = type(intervention).__name__
    for field in dataclasses.fields(intervention):
        if not field.metadata.get("pytree_node", True):
            continue
        role = field.metadata.get(_ROLE)
        value = getattr(intervention, field.name)
        if role == "parts":
            for part in jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, Intervention)):
                yield from _fields(part)
        elif role is None:
            raise InputError(
                f"{owner}.{field.name}",
                got="a field without a role",
                expected="scanned(), shared(), carried(), parts() or static()",
            )
        else:
            for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
                yield f"{owner}.{field.name}{jax.tree_util.keystr(path)}", role, leaf
