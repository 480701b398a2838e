"""The rules by which RelP and GIM change the backward pass, as interventions.

**RelP** (Rezaei Jafari, Eberle, Khakzar and Nanda, 2025, arXiv:2508.21258) replaces the derivative
by the coefficients of layer-wise relevance propagation. Each rule writes a layer's output as
y = x · c and treats c as a constant:

- LN rule (Ali et al., 2022): norms divide by constants;
- AH rule (Ali et al., 2022): attention patterns are constants, so that no relevance goes to queries
  and keys;
- identity rule (Rezaei Jafari et al., 2024): act(x) = x · c with c = act(x) / x;
- half rule (Arras et al., 2019): each factor of a gate's product gets half of the gradient;
- 0-rule: linear maps propagate as they are.

The layers are then linear maps of their inputs, and without biases relevance is conserved: the sum
of value · coefficient over the stream at any layer equals the metric, if that is linear in the
logits.

**GIM** (Edin et al., 2025, arXiv:2505.17630) corrects gradients for three interactions:

- norms divide by constants;
- temperature-adjusted softmax gradients: the softmax of attention is differentiated at the scores
  divided by T = 2, ∂L/∂s = q ⊙ (g − ⟨g, q⟩) with q = softmax(s / T), without a further factor
  1 / T, as in the authors' code;
- gradient normalisation: each factor of a product gets half of its gradient. Values are a factor of
  pattern · value; queries and keys are factors of a product that is one itself, so that they get a
  quarter. Gate and input of a gated MLP (SwiGLU) get half each, as in the authors' code for the
  paper (`scale_mlp_gate`); the first releases of the package `gim-explain` leave the gates out.

In a mixture of experts both treat the router's weights as constants. A neuron is then a product of
three factors, and neither paper has a rule for the third. The pass computes the neurons of all
experts, also of those that a token does not use. Soft caps, and the norms' subtraction of the
mean, keep their derivative.
"""

from __future__ import annotations

from hagd_jax.errors import require_flag, require_number
from hagd_jax.interventions import (
    HalveGates,
    HoldActivations,
    SoftenAttention,
    scale_gradient,
    stop_gradient,
)
from hagd_jax.models import SITES, Chain, chain

NORMS = tuple(site for site in SITES if site.endswith("_scale"))


def relp_rules(*, hold_patterns: bool = True) -> Chain:
    """Make the intervention that propagates relevance instead of gradients.

    Args:
        hold_patterns: Apply the AH rule. Without it patterns keep their derivative, as in the
            quick start of the authors' code, and relevance is not conserved.

    Returns:
        The intervention: the pass computes what it computes without it, and `jax.grad` gives the
        coefficients. A model without a gate has no product to halve.

    Raises:
        ConfigError: If `hold_patterns` is no flag.

    Example:
        >>> "attn_pattern" in relp_rules().sites, "attn_pattern" in gim_rules().sites
        (True, True)
    """
    require_flag("hold_patterns", hold_patterns)
    held = (*NORMS, "router", *(("attn_pattern",) if hold_patterns else ()))
    return chain(stop_gradient(held), HoldActivations(), HalveGates())


def gim_rules(temperature: float = 2.0, *, normalise: bool = True) -> Chain:
    """Make the intervention that modifies gradients as GIM does.

    Args:
        temperature: T of the softmax in the backward pass; 1 is the derivative.
        normalise: Divide the gradients of factors of products.

    Returns:
        The intervention; the pass computes what it computes without it.

    Raises:
        ConfigError: If the temperature is below 1, or `normalise` is no flag.
    """
    require_number("temperature", temperature, least=1)
    require_flag("normalise", normalise)
    soft = chain(stop_gradient((*NORMS, "router")), SoftenAttention(float(temperature)))
    if not normalise:
        return soft
    attention = scale_gradient({"q": 0.25, "k": 0.25, "v": 0.5})
    return chain(*soft.members, attention, HalveGates())
