"""The MLP of a block, dense or a mixture of experts."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from hagd_jax.models import experts, sorted_rows
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.layers import ACTIVATIONS, Linear
from hagd_jax.models.sites import NEURON_PARTS
from hagd_jax.models.tap import Tap


class MLP(nn.Module):
    """The MLP computes act(x · W_in) · W_out, or act(x · W_gate) · (x · W_in) · W_out.

    In a mixture, neurons are multiplied by the weight of their expert before W_out.
    """

    config: DecoderConfig

    def setup(self):
        c = self.config
        widen = functools.partial(Linear, (c.d_model,), (c.d_mlp,), ("embed", "mlp"), c.mlp_bias)
        self.into = widen(name="in")
        if c.gated_mlp:
            self.gate = widen()
        self.out = Linear((c.d_mlp,), (c.d_model,), ("mlp", "embed"), c.mlp_bias)
        if c.experts:
            self.router = Linear((c.d_model,), (c.experts,), ("embed", "experts"), False)

    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        c = self.config
        if c.experts:
            router = tap("router", experts.route(self.router(x), c, tap.ctx.index))
            size = sorted_rows.size(c, math.prod(x.shape[:-1]))
            # Rows of experts have no neurons of the others, whose factors somebody asks for.
            whole = tap.options.mesh is not None or any(map(tap.wants, NEURON_PARTS))
            if size is not None and not whole:
                return self.by_rows(x, router, size, tap)
            hidden = self.hidden(x, tap) * experts.per_neuron(router, c, tap.ctx.index)
        else:
            hidden = self.hidden(x, tap)
            if tap.wants("router"):
                hidden = hidden * tap("router", jnp.ones((*x.shape[:-1], 1), x.dtype))
        return self.out(tap("neuron", hidden))

    def hidden(self, x: jax.Array, tap: Tap | None = None) -> jax.Array:
        """Compute all neurons, before the weights of experts."""
        into, gate = self.into(x), self.gate(x) if self.config.gated_mlp else None
        if tap is None or not any(map(tap.wants, NEURON_PARTS)):
            return self.act(into, gate)
        pre = tap("neuron_pre", into if gate is None else gate)
        act = tap("neuron_act", self.act(pre))
        return act * tap("neuron_up", jnp.ones_like(into) if gate is None else into)

    def act(self, into: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        """Apply the activation function, to the gate if there is one."""
        act = ACTIVATIONS[self.config.activation]
        return act(into) if gate is None else act(gate) * into

    def by_rows(
        self, x: jax.Array, router: jax.Array, size: sorted_rows.Size, tap: Tap
    ) -> jax.Array:
        """Compute the experts that tokens use, and no others unless somebody rewrites them."""
        c, index, shape = self.config, tap.ctx.index, x.shape
        x, router = x.reshape(-1, c.d_model), router.reshape(-1, c.experts)
        rows = sorted_rows.sort(router, size)
        read = (self.into.kernel, self.gate.kernel) if c.gated_mlp else (self.into.kernel,)
        weights = sorted_rows.Weights(read, self.out.kernel, self.act)
        inside = experts.inside(c, index).reshape(c.experts, c.d_expert)
        active, rest = sorted_rows.neurons(x, rows, weights, inside), None
        rewritten = tap.intervention.sites & {"router", "neuron"}
        if rewritten or tap.wants("neuron"):
            neuron = sorted_rows.spread(active, rows, c.experts).reshape(*shape[:-1], c.d_mlp)
            if "router" in rewritten:
                # Zero unless somebody gave a token more experts than it chooses.
                more = experts.per_neuron(sorted_rows.others(router, rows), c, index)
                neuron = neuron + (self.hidden(x) * more).reshape(neuron.shape)
            neuron = tap("neuron", neuron)
            if rewritten:
                neuron = neuron.reshape(-1, c.experts, c.d_expert)
                active, rest = sorted_rows.gather(neuron, rows)
        out = sorted_rows.write(active, rows, weights)
        out = out if rest is None else out + self.out(rest.reshape(-1, c.d_mlp))
        return out.reshape(shape)
