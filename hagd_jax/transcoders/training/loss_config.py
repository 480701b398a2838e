"""Weights of what a transcoder is trained to make small."""

from __future__ import annotations

import dataclasses

from hagd_jax.errors import ConfigError, require_list, require_number


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Configure the weights of the loss terms beside the reconstruction error.

    Attributes:
        sparsity: λ₂ of Σ_f f ‖W_dec f‖, for `relu` and `jump_relu`; top-k needs none.
        predict: λ₁ of ‖f_{l+1} − f̂_{l+1}‖², the paper's prediction head.
        dead: Weight of the error that dead features leave when they explain what is left over.
        dead_after: Tokens without firing after which a feature counts as dead.
        jacobian: Weight of ‖(J_transcoder − J_MLP) v‖² / ‖J_MLP v‖² for random directions v: it
            keeps features from computing by another route than the MLP does.
        jacobian_every: It looks at one token in so many: fewer cost less, and repair less.
        most: A token counts at most as much as so many typical ones. Without, the few tokens on
            which a model parks its attention, whose MLP outputs are hundreds of times as large,
            are nearly all that some layers learn.
        prefixes: Numbers of features, rising. For each of them the error of the reconstruction from
            the first so many features of every layer alone is added ("Matryoshka", Bussmann et
            al., 2025, arXiv:2503.17547), so that few features suffice for most of the output.
    """

    sparsity: float = 0.0
    predict: float = 0.0
    dead: float = 1 / 32
    dead_after: int = 200_000
    jacobian: float = 0.3
    jacobian_every: int = 8
    most: float = 10.0
    prefixes: tuple[int, ...] = ()

    def __post_init__(self):
        require_number("jacobian_every", self.jacobian_every, least=1, whole=True)
        require_number("dead_after", self.dead_after, least=0, whole=True)
        require_number("most", self.most, least=1)
        for field in ("sparsity", "predict", "dead", "jacobian"):
            require_number(field, getattr(self, field), least=0)
        listed = require_list("prefixes", self.prefixes, "numbers of features")
        for count in listed:
            require_number("prefixes", count, least=1, whole=True)
        if listed != sorted(set(listed)):
            raise ConfigError("prefixes", got=listed, expected="rising numbers, each once")
        object.__setattr__(self, "prefixes", tuple(listed))
