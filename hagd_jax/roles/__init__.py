"""Roles: the signature of every unit, and a label where a tested rule gives one."""

from hagd_jax.roles.attention import Patterns
from hagd_jax.roles.copying import copying
from hagd_jax.roles.effects import Effects
from hagd_jax.roles.necessity import necessity
from hagd_jax.roles.role import Described, Role, Roles, described, named, roles_of
from hagd_jax.roles.rules import ROLES, RULES, UNNAMED, Rule, Within, at_least, at_most
from hagd_jax.roles.signature import NAMES, SignatureConfig, Signatures, signatures

__all__ = [
    "NAMES",
    "ROLES",
    "RULES",
    "UNNAMED",
    "Described",
    "Effects",
    "Patterns",
    "Role",
    "Roles",
    "Rule",
    "SignatureConfig",
    "Signatures",
    "Within",
    "at_least",
    "at_most",
    "copying",
    "described",
    "named",
    "necessity",
    "roles_of",
    "signatures",
]
