"""Where circuits are run: a model, its parts, and the prompts of a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal.ablation import Ablation, Behaviour, behaviour, kin
from hagd_jax.causal.claim import Runs
from hagd_jax.causal.config import ValidateConfig
from hagd_jax.causal.judged import Judged, judged_prompts
from hagd_jax.causal.reference import LEAST
from hagd_jax.causal.trials import AnyCircuit, Mask, Trials, existing, without
from hagd_jax.models import LanguageModel
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.seen import Seen
from hagd_jax.units.components import AnyParts
from hagd_jax.units.wired import Wired


@dataclasses.dataclass(frozen=True)
class Test:
    """A test holds one task's prompts and says which ablations decide on them.

    Attributes:
        task: The task.
        judged: Its prompts.
        decides: Ablation → whether core claims under it decide. Ablations under which a prompt has
            no other prompt to take values from are missing, since nothing can be measured.
        enough: Ablation → whether there are enough prompts for a verdict.
        aside: What was set aside, in sentences.
    """

    task: Task
    judged: Judged
    decides: dict[str, bool]
    enough: dict[str, bool]
    aside: tuple[str, ...]

    __repr__ = one_line


@dataclasses.dataclass(frozen=True)
class Bench:
    """A bench runs circuits of one model with one configuration."""

    model: LanguageModel
    parts: AnyParts
    config: ValidateConfig

    __repr__ = one_line

    def of(self, model: LanguageModel) -> Bench:
        """Return the same bench for a model with other weights."""
        parts = self.parts.of(model) if isinstance(self.parts, Wired) else self.parts
        return dataclasses.replace(self, model=model, parts=parts)

    def test(self, task: Task, seen: Seen) -> Test:
        """Choose the prompts and ablations a task is judged on, and note what is set aside."""
        causal = self.model.config.causal
        judged = judged_prompts(task, self.config.split, seen, causal=causal)
        aside = list(judged.aside)
        found_with = [name for name in self.config.ablations if kin(name) & set(seen.ablations)]
        if found_with:
            aside.append(f"ablation {' and '.join(found_with)}, which the circuit was found with")
        count, few = len(judged), judged.others < LEAST - 1
        if count < self.config.least:
            aside.append(
                f"all claims, since {count} distinct prompts are fewer than {self.config.least}"
            )
        reads = [n for n in self.config.ablations if n.startswith("mean") or n == "resample"]
        if few and reads:
            aside.append(
                f"ablation {' and '.join(reads)}, which takes values from {LEAST - 1} others"
            )
        decides = {
            name: judged.decides and name not in found_with
            for name in self.config.ablations
            if judged.others or name not in reads
        }
        enough = {n: count >= self.config.least and not (few and n in reads) for n in decides}
        return Test(task, judged, decides, enough, tuple(aside))

    def run(self, test: Test, masks: Sequence[Mask], ablation: str, draw: int = 0) -> Behaviour:
        """Run model and masks on distinct prompts, with one draw of partners."""
        found = behaviour(
            self.model, test.judged.prompts, masks,
            ablation=Ablation(ablation, test.judged.reference, self.config.seed + draw),
            dictionary=self.parts, candidates=test.task.candidates,
            batch_size=self.config.batch_size, with_model=True,
        )  # fmt: skip
        return test.judged.averaged(found)

    def runs(self, test: Test, trials: Trials, ablation: str, first: int | None = None) -> Runs:
        """Run the trials, or the first of them, under one ablation.

        Under `resample` they are averaged over draws of partners, but for random circuits and
        random sets outside the circuit, of which there are many: these are run and compared with
        the circuit on the first draw alone.
        """
        once, single = self.run(test, trials.masks[:first], ablation), None
        found = once
        draws = range(1, self.config.draws if ablation == "resample" else 1)
        if draws:
            rows = np.arange(len(once.kl))
            random = (trials.controls, trials.without_others)
            rows = np.setdiff1d(rows, np.concatenate([rows[part] for part in random]))
            # The model's row comes before the masks.
            masks = [trials.masks[row - 1] for row in rows[1:].tolist()]
            several = [self.run(test, masks, ablation, draw) for draw in draws]
            single, found = once, Behaviour(*map(np.copy, once))
            for mean, *others in zip(found, *several, strict=True):
                mean[rows] = np.mean([mean[rows], *others], 0)
        return Runs(
            found, trials, trials.members, self.config.alpha, ablation, self.config.split,
            self.config.seed, test.judged.clusters, test.decides[ablation],
            robust=self.config.robust, once=single,
        )  # fmt: skip

    def greedy(self, test: Test, circuit: AnyCircuit, ablation: str) -> np.ndarray:
        """Remove the parts that most separate circuit and model; return their (S, 2) metrics.

        Each step takes out the member that widens the gap most (Wang et al., 2022); of large
        circuits, of as many members as are tried one by one.
        """
        like, there, own = circuit.mask(), existing(self.parts), circuit.parts()
        flat, tried = like.flat().astype(bool), own.first
        rng = np.random.default_rng([self.config.seed, 5])
        tried = rng.permutation(tried)[: self.config.members]
        out: list[int] = []
        steps = []
        for _ in range(min(self.config.greedy, len(tried))):
            left = [place for place in tried.tolist() if place not in out]
            # Always as many masks, so that one program serves all steps.
            rows = np.resize(left, len(tried))
            pairs = [[without(whole, own.all_of([*out, place])) for place in rows]
                     for whole in (flat, there)]  # fmt: skip
            masks = [like.like(row) for side in pairs for row in side]
            found = self.run(test, masks, ablation).metric[1:].mean(1).reshape(2, -1)
            best = int(np.abs(found[0] - found[1]).argmax())
            out.append(int(rows[best]))
            steps.append(found[:, best])
        return np.array(steps).reshape(-1, 2)
