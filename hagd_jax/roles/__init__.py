"""Roles: the signature of every unit, and a label where a tested rule gives one."""

from hagd_jax.roles.attention import Patterns
from hagd_jax.roles.copying import copying
from hagd_jax.roles.signature import NAMES, SignatureConfig, Signatures, signatures

__all__ = ["NAMES", "Patterns", "SignatureConfig", "Signatures", "copying", "signatures"]
