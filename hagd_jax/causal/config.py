"""How hard a circuit is judged."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from hagd_jax.brief import quoted
from hagd_jax.causal.ablation import ABLATIONS, Named
from hagd_jax.errors import ConfigError, require_choice, require_flag, require_number
from hagd_jax.tasks.definition import SPLITS, Split

Claims = Literal["core", "all"]


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """Configure how hard `validate` tests a circuit.

    Attributes:
        claims: `all`; or `core`, those that decide, and of those no more than can still change the
            verdict. The verdict is the same.
        ablations: What ablated nodes are set to, each in turn. Those that the circuit was found
            with do not count for its acceptance.
        alpha: Level of every test.
        controls: Random circuits of the same size: half of them layer by layer, half from all
            nodes of a kind, with units of the circuit's own resolutions; and as many random sets
            of nodes outside the circuit, to be taken out. 19 are the least with which a level of
            0.05 can be reached.
        draws: Partners of each prompt under `resample`; what they give is averaged. With few, a
            partner that has the same answer hides what an ablation does. Random circuits, and
            random sets outside the circuit, are run and compared with it on the first draw alone.
        members: At most so many members are left out one by one, each a whole unit.
        pairs: At most so many pairs of those.
        subsets: Random parts that are taken out of circuit and model.
        supersets: Random supersets of the circuit, each with a tenth of the nodes outside it, which
            should pass the gates as the circuit does.
        robust: Whether that robustness decides, too; it is only reported otherwise.
        greedy: Steps of a search for the part without which they differ most.
        permuted: Models with permuted weights on which the circuit must not pass.
        least: With fewer distinct prompts there is no verdict.
        batch_size: Prompts in one call.
        split: Prompts to judge on; a split that the circuit has seen decides nothing.
        seed: Of controls, subsets, bootstraps and permutations. An extraction adds its own.

    Raises:
        ConfigError: If a number is impossible, or an ablation does not exist.
    """

    claims: Claims = "all"
    ablations: tuple[Named, ...] = ("counterfactual", "mean", "resample")
    alpha: float = 0.05
    controls: int = 40
    draws: int = 4
    members: int = 64
    pairs: int = 32
    subsets: int = 16
    supersets: int = 16
    robust: bool = False
    greedy: int = 3
    permuted: int = 1
    least: int = 8
    batch_size: int = 16
    split: Split = "test"
    seed: int = 0

    def __post_init__(self):
        require_choice("claims", self.claims, get_args(Claims))
        require_choice("split", self.split, SPLITS)
        listed = isinstance(self.ablations, tuple | list) and len(self.ablations)
        if not listed or any(name not in ABLATIONS for name in self.ablations):
            expected = f"one or more of {', '.join(ABLATIONS)}"
            raise ConfigError("ablations", got=quoted(self.ablations), expected=expected)
        require_number("alpha", self.alpha, above=0, below=1)
        for field in ("controls", "draws", "members", "pairs", "subsets", "least", "batch_size"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("greedy", "permuted", "seed", "supersets"):
            require_number(field, getattr(self, field), least=0, whole=True)
        require_flag("robust", self.robust)
        if self.robust and not self.supersets:
            raise ConfigError("supersets", got=0, expected="1 or more where robust is on")
