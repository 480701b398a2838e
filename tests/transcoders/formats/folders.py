"""Transcoder folders as their authors lay them out, written with the safetensors library alone."""

import json

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

L, D, F = 3, 8, 16


def arrays(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def put_tensors(file, **tensors):
    """Replace tensors of a file; None removes one."""
    kept = load_file(file) | tensors
    save_file({name: value for name, value in kept.items() if value is not None}, file)


def config_yaml(folder, **values):
    given = {
        "model_kind": "transcoder_set", "model_name": "m", "scan": "s",
        "feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out",
    } | values  # fmt: skip
    kept = {name: value for name, value in given.items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept))


def per_layer(folder, *, layers=L, threshold=None, skip=False, **values):
    """circuit-tracer's folder of a transcoder a layer; its tensors, layer after layer."""
    folder.mkdir(parents=True)
    stored = []
    for layer in range(layers):
        tensors = arrays(layer, W_enc=(F, D), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
        if threshold is not None:
            tensors |= arrays(layer + 100, **{"activation_function.threshold": threshold})
        if skip:
            tensors |= arrays(layer + 200, W_skip=(D, D))
        save_file(tensors, folder / f"layer_{layer}.safetensors")
        stored.append(tensors)
    config_yaml(folder, **values)
    return stored


def cross_layer(folder, *, layers=L, threshold=False, **values):
    """circuit-tracer's folder of a cross-layer transcoder; its tensors, under their names."""
    folder.mkdir(parents=True)
    stored = {}
    for i in range(layers):
        encoder = arrays(i, **{f"W_enc_{i}": (F, D), f"b_enc_{i}": (F,), f"b_dec_{i}": (D,)})
        if threshold:
            encoder |= arrays(i + 100, **{f"threshold_{i}": (F,)})
        decoder = arrays(i + 200, **{f"W_dec_{i}": (F, layers - i, D)})
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file(decoder, folder / f"W_dec_{i}.safetensors")
        stored |= encoder | decoder
    given = {
        "model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }  # fmt: skip
    config_yaml(folder, **given | values)
    return stored


def sparsify(folder, *, layers=L, prefix="model.", weights=None, **options):
    """A `sparsify` folder of skip transcoders."""
    for layer in range(layers):
        place = folder / f"{prefix}layers.{layer}.mlp"
        place.mkdir(parents=True)
        names = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
        tensors = arrays(layer, **names, W_skip=(D, D))
        save_file(tensors | (weights or {}), place / "sae.safetensors")
        cfg = {
            "activation": "topk", "expansion_factor": 2, "normalize_decoder": True,
            "num_latents": 0, "k": 4, "multi_topk": False, "skip_connection": True,
            "transcode": True, "d_in": D,
        } | options  # fmt: skip
        kept = {name: value for name, value in cfg.items() if value != "absent"}
        (place / "cfg.json").write_text(json.dumps(kept))


def saelens(folder, *, layers=L, architecture="transcoder", hook="mlp.hook_in", **options):
    """A SAELens folder; `options` go to the configuration, those of `metadata` into that."""
    stored = []
    for layer in range(layers):
        place = folder / f"layer {layer}" if layers > 1 else folder
        place.mkdir(parents=True)
        tensors = arrays(layer, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
        if "skip" in architecture:
            tensors |= arrays(layer + 100, W_skip=(D, D))
        if "jumprelu" in architecture:
            tensors |= arrays(layer + 200, threshold=(F,))
        save_file(tensors, place / "sae_weights.safetensors")
        metadata = {
            "hook_name": f"blocks.{layer}.{hook}",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            "model_name": "m",
        } | options.get("metadata", {})  # fmt: skip
        cfg = {
            "architecture": architecture, "d_in": D, "d_out": D, "d_sae": F,
            "normalize_activations": "none", "reshape_activations": "none",
            "apply_b_dec_to_input": False,
        } | options | {"metadata": metadata}  # fmt: skip
        (place / "cfg.json").write_text(json.dumps(cfg))
        stored.append(tensors)
    return stored


def gemma_scope(folder, *, layers=L, file="width_16k/average_l0_7{}/params.npz", save=np.savez):
    """Gemma Scope's files, as in google/gemma-scope-2b-pt-transcoders."""
    stored = []
    for layer in range(layers):
        place = folder / f"layer_{layer}" / file.format(layer)
        place.parent.mkdir(parents=True)
        tensors = arrays(layer, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
        # The released thresholds are all positive; a negative one must count as 0.
        tensors |= {"threshold": arrays(layer + 100, t=(F,))["t"] + 0.2}
        save(place, **tensors)
        stored.append(tensors)
    return stored


def gemma_scope_2(folder, *, layers=L, affine=True, form=None, **options):
    """Gemma Scope 2's folders of one layer each, as under transcoder_all/."""
    stored = []
    for layer in range(layers):
        form = form or "layer_{}_width_16k_l0_small" + "_affine" * affine
        place = folder / form.format(layer)
        place.mkdir(parents=True)
        tensors = arrays(layer, w_enc=(D, F), w_dec=(F, D), b_enc=(F,), b_dec=(D,))
        tensors |= arrays(layer + 100, threshold=(F,))
        if affine:
            tensors |= arrays(layer + 200, affine_skip_connection=(D, D))
        save_file(tensors, place / "params.safetensors")
        put_config(place, layer, affine, **{"type": "transcoder", "width": F} | options)
        stored.append(tensors)
    return stored


def gemma_scope_2_clt(folder, *, layers=L, affine=True, **options):
    """Gemma Scope 2's folder of a cross-layer transcoder, as under clt/."""
    folder.mkdir(parents=True)
    stored = []
    for layer in range(layers):
        tensors = arrays(layer, w_enc=(D, F), w_dec=(F, layers, D), b_enc=(F,), b_dec=(D,))
        tensors |= arrays(layer + 100, threshold=(F,))
        if affine:
            tensors |= arrays(layer + 200, affine_skip_connection=(D, D))
        save_file(tensors, folder / f"params_layer_{layer}.safetensors")
        stored.append(tensors)
    put_config(folder, "{all}", affine, **{"type": "clt", "width": layers * F} | options)
    return stored


def put_config(folder, layer, affine, **values):
    given = {
        "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
        "model_name": "m", "architecture": "jump_relu", "l0": 20, "affine_connection": affine,
    } | values  # fmt: skip
    kept = {name: value for name, value in given.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))
