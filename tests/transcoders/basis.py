"""The neuron basis of a model as a transcoder."""

import jax.numpy as jnp

from hagd_jax.transcoders import Transcoder, TranscoderConfig


def neuron_basis(model):
    """A transcoder whose features are the neurons, and which leaves no error."""
    c = model.config
    assert c.activation == "relu"
    assert not c.gated_mlp
    config = TranscoderConfig(
        n_layers=c.n_layers, d_model=c.d_model, n_features=c.d_mlp, activation="relu"
    )
    mlp = model.params["blocks"]["mlp"]
    params = {
        "W_enc": jnp.swapaxes(mlp["in"]["kernel"], 1, 2),
        "b_enc": mlp["in"]["bias"],
        "W_dec": mlp["out"]["kernel"],
        "b_dec": mlp["out"]["bias"],
    }
    return Transcoder(params, config, model.mesh, "the neurons again")
