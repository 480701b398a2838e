"""Models built by hand to compute A → B → C, so that the middle feature B is known.

Several chains share one model. When a chain is present, its inputs a, b, c are true or false;
an MLP computes B = g(a, b), a later one C = h(B, c). Transcoders of such models show whether
sparsity makes them leave B out and write C from a, b and c at once, as cross-layer transcoders
were seen to do ("Cross-Layer Transcoders are Incentivized to Learn Unfaithful Circuits", 2026).

Each variable has a direction of its own in the stream; all are orthonormal, and turned at random
against the basis. Inputs are ±1, and 0 where a chain is absent; B and C are 1 or 0. A neuron of
the first hop fires on one row of g's truth table, ReLU(±a ± b − 1), one of the second on one row
of h's, ReLU(±(2B − 1) ± 2c − 2). Each is 1 on its row, and elsewhere at least 1 below its
threshold; their sum writes B or C. Attention writes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import ConfigError, require_index, require_is, require_number
from hagd_jax.models import DecoderConfig, LanguageModel
from hagd_jax.testbeds.blank import zeros

VARIABLES = ("a", "b", "c", "B", "C")
# Every Boolean function that depends on both arguments: its value on (0,0), (0,1), (1,0), (1,1).
FUNCTIONS = {
    "x and y": (0, 0, 0, 1),
    "x and not y": (0, 0, 1, 0),
    "y and not x": (0, 1, 0, 0),
    "x xor y": (0, 1, 1, 0),
    "x or y": (0, 1, 1, 1),
    "x nor y": (1, 0, 0, 0),
    "x equals y": (1, 0, 0, 1),
    "x or not y": (1, 0, 1, 1),
    "y or not x": (1, 1, 0, 1),
    "x nand y": (1, 1, 1, 0),
}
_TABLES = np.array(list(FUNCTIONS.values())).reshape(-1, 2, 2)
_MOST_ROWS = 3
_MOST_TOKENS = 100_000


@dataclasses.dataclass(frozen=True)
class TwoHopConfig:
    """Configure the size of a model and the number of chains that share it.

    Attributes:
        chains: Chains in the model, n.
        n_layers: Layers; the two MLPs of a chain lie 1 to n_layers − 1 apart, and every layer has
            a part in some chain.
        d_model: Width; each chain needs 5 directions.
        present: Most chains present in one input.

    Raises:
        ConfigError: If a number is impossible.

    Example:
        >>> TwoHopConfig(chains=2, present=1, d_model=10).vocab_size
        17
    """

    chains: int = 6
    n_layers: int = 4
    d_model: int = 32
    present: int = 2

    def __post_init__(self):
        for field, least in {"chains": 1, "n_layers": 2, "d_model": 1, "present": 1}.items():
            require_number(field, getattr(self, field), least=least, whole=True)
        if self.n_layers > 2 * self.chains:
            raise ConfigError(
                "n_layers",
                got=self.n_layers,
                expected=f"at most 2 for each of {self.chains} chains",
            )
        if self.d_model < len(VARIABLES) * self.chains:
            raise ConfigError(
                "d_model",
                got=self.d_model,
                expected=f"{len(VARIABLES) * self.chains} or more, for {self.chains} chains",
            )
        if self.present > self.chains:
            raise ConfigError("present", got=self.present, expected=f"at most {self.chains} chains")
        if self.vocab_size > _MOST_TOKENS:
            raise ConfigError(
                "present",
                got=f"{self.present} of {self.chains} chains, {self.vocab_size} inputs",
                expected=f"at most {_MOST_TOKENS} inputs",
            )

    @property
    def vocab_size(self) -> int:
        """Return the number of inputs, one token each: chains present and their three bits."""
        return sum(math.comb(self.chains, k) * 8**k for k in range(self.present + 1))

    @property
    def decoder(self) -> DecoderConfig:
        """Configure the transformer."""
        return DecoderConfig(
            vocab_size=self.vocab_size,
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=1,
            d_head=1,
            d_mlp=_MOST_ROWS * self.chains,
            norm="none",
            positions="none",
            qkv_bias=False,
            attn_out_bias=False,
        )


class TwoHop(struct.PyTreeNode):
    """A two-hop model comes with the truth about it; it is a pytree, so models can be stacked.

    Attributes:
        model: Token t is the input whose variables are `values[t]`; the logit of token j is C of
            chain j. Attention moves nothing: the tokens of a sequence are independent inputs.
        functions: (n, 2) which of `FUNCTIONS` g and h are.
        earlier: (n,) the layer whose MLP writes B.
        later: (n,) the layer whose MLP reads B and writes C.
        directions: (n, 5, D) orthonormal, of a, b, c, B, C.
        present: (V, n) 1 where the chain is present, else 0.
        values: (V, n, 5) the variables by the functions' truth tables.
    """

    model: LanguageModel
    functions: Any
    earlier: Any
    later: Any
    directions: Any
    present: Any
    values: Any

    __repr__ = one_line


def two_hop(seed: int, config: TwoHopConfig | None = None) -> TwoHop:
    """Build a model with chains of random functions, layers and directions.

    Args:
        seed: Of everything random.
        config: Its size.

    Returns:
        The model with its truth.

    Example:
        >>> found = two_hop(0, TwoHopConfig(chains=2, d_model=10))
        >>> found.directions.shape, found.values.shape
        ((2, 5, 10), (81, 2, 5))
    """
    config = TwoHopConfig() if config is None else config
    require_is("config", config, TwoHopConfig)
    rng = np.random.default_rng(require_index("seed", seed))
    n = config.chains
    functions = rng.integers(len(FUNCTIONS), size=(n, 2))
    earlier, later = _places(rng, config)
    turned, _ = np.linalg.qr(rng.normal(size=(config.d_model,) * 2))
    directions = turned.T[: n * len(VARIABLES)].reshape(n, len(VARIABLES), -1)
    present, values = _truth(functions, config)
    truth = (functions, earlier, later, directions, present, values)
    arrays = [x.astype(np.float32 if x.dtype.kind == "f" else np.int32) for x in truth]
    params = _weights(functions, earlier, later, directions, values, config)
    model = LanguageModel(params, config.decoder, name="two-hop")
    return jax.tree.map(jax.numpy.asarray, TwoHop(model, *arrays))


def _places(rng: np.random.Generator, config: TwoHopConfig) -> np.ndarray:
    """(2, n) the layers of each chain: pairs that cover all layers, then pairs of any distance."""
    layers, n = config.n_layers, config.chains
    order = np.resize(rng.permutation(layers), layers + layers % 2)
    distance = rng.integers(1, layers, n)
    earlier = rng.integers(0, layers - distance)
    drawn = np.stack([earlier, earlier + distance], -1)
    pairs = np.concatenate([np.sort(order.reshape(-1, 2)), drawn])[:n]
    return rng.permutation(pairs).T


def _truth(functions: np.ndarray, config: TwoHopConfig) -> tuple[np.ndarray, np.ndarray]:
    """(V, n) which chains are present in each input, and (V, n, 5) their variables."""
    n = config.chains
    present, bits = np.zeros((config.vocab_size, n)), np.zeros((config.vocab_size, n, 3), int)
    token = itertools.count()
    for count in range(config.present + 1):
        for chains in itertools.combinations(range(n), count):
            for row in itertools.product(itertools.product((0, 1), repeat=3), repeat=count):
                t = next(token)
                present[t, list(chains)] = 1
                bits[t, list(chains)] = np.array(row).reshape(-1, 3)
    g, h = _TABLES[functions[:, 0]], _TABLES[functions[:, 1]]
    chain = np.arange(n)
    middle = g[chain, bits[..., 0], bits[..., 1]]
    last = h[chain, middle, bits[..., 2]]
    values = np.concatenate([2 * bits - 1, np.stack([middle, last], -1)], -1)
    return present, values * present[..., None]


def _weights(
    functions: np.ndarray,
    earlier: np.ndarray,
    later: np.ndarray,
    directions: np.ndarray,
    values: np.ndarray,
    config: TwoHopConfig,
) -> dict:
    """The parameters: inputs in the embedding, truth tables in the MLPs, C in the unembedding."""
    params = zeros(config.decoder)
    params["embed/embedding"] = np.einsum("tnv,nvd->td", values[..., :3], directions[:, :3])
    params["unembed/kernel"][:, : config.chains] = directions[:, 4].T
    into, bias, out = (
        params[f"blocks/mlp/{name}"] for name in ("in/kernel", "in/bias", "out/kernel")
    )
    free = np.zeros(config.n_layers, int)

    def neuron(layer: int, reads: np.ndarray, offset: float, writes: np.ndarray) -> None:
        i = free[layer]
        free[layer] += 1
        into[layer, :, i], bias[layer, i], out[layer, i] = reads, offset, writes

    for (g, h), first, second, (a, b, c, middle, last) in zip(
        functions, earlier, later, directions, strict=True
    ):
        for x, y in np.argwhere(_TABLES[g]):
            neuron(first, (2 * x - 1) * a + (2 * y - 1) * b, -1, middle)
        for x, y in np.argwhere(_TABLES[h]):
            sign = 2 * x - 1
            neuron(second, 2 * sign * middle + 2 * (2 * y - 1) * c, -2 - sign, last)
    flat = {path: value.astype(np.float32) for path, value in params.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")
