"""What each claim means, what number is shown of it, and what its p-value is the probability of."""

from __future__ import annotations

MEANINGS = {
    "size": "The circuit is a part of the model. Shown: its share of the model.",
    "sufficiency": "Alone it does what the model does, and random circuits of its size do not. "
    "Shown: its faithfulness.",
    "necessity": "Without it the behaviour is lost, and without as many other members it is not. "
    "Shown: the share of the metric lost.",
    "minimality": "No member could be left out. Shown: the share that could.",
    "completeness": "Whatever part is taken out, circuit and model suffer alike. Shown: the mean "
    "gap between them, as a share of the metric.",
    "equivalence": "Circuit and model win against each other equally often. Shown: the share of "
    "prompts on which the circuit wins.",
    "independence": "The model without the circuit is independent of the model. Shown: the "
    "correlation of their metrics.",
    "additivity": "No two members stand in for each other. Shown: what the worst pair hides, as a "
    "share of the metric.",
    "robustness to supersets": "The circuit is a list of parts, not a tuned set: it passes the "
    "same gates with a random tenth of the other nodes added. Shown: the share of such supersets.",
    "specificity": "Other tasks do not need the circuit. Shown: the share of their metric lost "
    "without it.",
    "negative control": "The circuit does not pass on a model with permuted weights. Shown: its "
    "faithfulness to that model, which may be any number.",
    "stability": "Circuits found with other seeds or prompts have the same members. Shown: the "
    "mean Jaccard index of two circuits.",
}
# Claim → what its p-value is the probability of.
P_VALUES = {
    "sufficiency": "p: probability that a random circuit of its size is as close to the model.",
    "necessity": "p: probability that as much is lost without as many random other members.",
    "minimality": "p: probability of changes of KL like these if the least significant member did "
    "nothing (signed ranks).",
    "equivalence": "p: probability of such a share of wins if the true one were 30% or 70%.",
    "independence": "p: probability of so much dependence (HSIC) if the two were independent.",
    "additivity": "p: probability of so much lost if the worst pair hid nothing (signed ranks, "
    "Holm).",
    "specificity": "p: probability of such losses if other tasks lost as much (Mann-Whitney).",
    "stability": "p: probability that random sets of these sizes share as much.",
}


def meaning(name: str) -> str:
    """Return what a claim means, with what its p-value is, for the page; empty if unknown.

    Example:
        >>> meaning("size")
        'The circuit is a part of the model. Shown: its share of the model.'
    """
    return " ".join(words[name] for words in (MEANINGS, P_VALUES) if name in words)
