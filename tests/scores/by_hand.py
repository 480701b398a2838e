"""A small transformer and its backward pass in float64 NumPy, with the rules of RelP and GIM.

Written from the papers' equations, layer by layer, without automatic differentiation.
"""

import numpy as np
import scipy.special

ACT = {
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "silu": lambda x: x * scipy.special.expit(x),
    "relu": lambda x: np.maximum(x, 0),
}
SLOPE = {
    "gelu": lambda x: scipy.special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    "silu": lambda x: scipy.special.expit(x) * (1 + x * scipy.special.expit(-x)),
    "relu": lambda x: (x > 0) * 1.0,
}


def flattened(tree, layer=None):
    """The parameters of one layer, or of what lies outside the layers, in float64."""
    if hasattr(tree, "items"):
        return {name: flattened(part, layer) for name, part in tree.items()}
    whole = np.asarray(tree, np.float64)
    return whole if layer is None else whole[layer]


def linear(p, x):
    return np.tensordot(x, p["kernel"], 1) + p.get("bias", 0.0)


def norm(c, p, x):
    """The value, and what its backward pass needs."""
    centred = x - x.mean(-1, keepdims=True) if c.norm == "layer" else x
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + c.norm_eps)
    return centred / scale * p["scale"] + p.get("bias", 0.0), (centred, scale, p["scale"])


def norm_back(c, kept, g, rule):
    centred, scale, weight = kept
    g = g * weight
    back = g / scale
    if rule == "grad":
        back = back - centred * (g * centred).mean(-1, keepdims=True) / scale**3
    return back - back.mean(-1, keepdims=True) if c.norm == "layer" else back


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def router_of(c, p, x):
    """(T, M) weight of each neuron's expert; one without experts."""
    if not c.experts:
        return np.ones((len(x), c.d_mlp))
    chances = softmax(x @ p["router"]["kernel"])
    order = np.argsort(-chances, -1)[:, : c.experts_per_token]
    weights = np.zeros_like(chances)
    np.put_along_axis(weights, order, np.take_along_axis(chances, order, -1), -1)
    if c.normalise_routing:
        weights /= weights.sum(-1, keepdims=True)
    return np.repeat(weights, c.d_mlp // c.experts, -1)


def forward(model, tokens):
    """All that the backward pass needs, for one prompt (T,)."""
    c, params = model.config, model.params
    outer = flattened({k: v for k, v in params.items() if k != "blocks"})
    x = outer["embed"]["embedding"][tokens]
    if c.positions == "learned":
        x = x + outer["positions"]["embedding"][: len(tokens)]
    layers = []
    for layer in range(c.n_layers):
        p = flattened(params["blocks"], layer)
        kept = {"p": p, "resid": x}
        read, kept["norm1"] = norm(c, p["norm1"], x)
        a = p["attn"]
        q, k, v = (linear(a[name], read) for name in "qkv")
        k, v = (np.repeat(y, c.n_heads // y.shape[1], 1) for y in (k, v))
        s = np.einsum("thd,shd->hts", q, k) / np.sqrt(c.d_head)
        s = np.where(np.tril(np.ones(s.shape[1:], bool)), s, -np.inf)
        pattern = softmax(s)
        z = np.einsum("hts,shd->thd", pattern, v)
        kept |= {"q": q, "k": k, "v": v, "s": s, "pattern": pattern, "head_out": z}
        x = x + np.einsum("thd,hde->te", z, a["o"]["kernel"]) + a["o"].get("bias", 0.0)
        read, kept["norm2"] = norm(c, p["norm2"], x)
        up = linear(p["mlp"]["in"], read)
        pre = linear(p["mlp"]["gate"], read) if c.gated_mlp else up
        router = router_of(c, p["mlp"], read)
        act = ACT[c.activation](pre)
        neuron = act * (up if c.gated_mlp else 1) * router
        kept |= {"pre": pre, "act": act, "up": up, "router": router, "neuron": neuron}
        x = x + linear(p["mlp"]["out"], neuron)
        layers.append(kept)
    read, final = norm(c, outer["norm_f"], x)
    return layers, (outer, final, linear(outer["unembed"], read))


def backward(model, layers, end, answer, distractor, rule, temperature=2.0):
    """For each layer the gradients of `head_out`, `neuron` and the stream, and of the embedding."""
    c, (outer, final, logits) = model.config, end
    kernel = outer["unembed"]["kernel"]
    g = np.zeros((len(logits), c.d_model))
    g[-1] = kernel[:, answer] - kernel[:, distractor]
    g = norm_back(c, final, g, rule)
    found = []
    for kept in reversed(layers):
        p = kept["p"]
        of_neuron = g @ p["mlp"]["out"]["kernel"].T
        act, pre, up = kept["act"], kept["pre"], kept["up"]
        slope = act / pre if rule == "relp" else SLOPE[c.activation](pre)
        share = 0.5 if rule != "grad" and c.gated_mlp else 1.0
        inner = of_neuron * kept["router"] * share
        if c.gated_mlp:
            read = (inner * act) @ p["mlp"]["in"]["kernel"].T
            read = read + (inner * up * slope) @ p["mlp"]["gate"]["kernel"].T
        else:
            read = (inner * slope) @ p["mlp"]["in"]["kernel"].T
        g = g + norm_back(c, kept["norm2"], read, rule)
        of_head = np.einsum("te,hde->thd", g, p["attn"]["o"]["kernel"])
        read = attention_back(c, kept, of_head, rule, temperature)
        g = g + norm_back(c, kept["norm1"], read, rule)
        found.append({"head_out": of_head, "neuron": of_neuron, "resid": g})
    return found[::-1]


def attention_back(c, kept, of_head, rule, temperature):
    a, group = kept["p"]["attn"], c.n_heads // c.n_kv_heads

    def into(name, g):
        if name != "q":
            g = g.reshape(len(g), -1, group, c.d_head).sum(2)
        return np.einsum("thd,ehd->te", g, a[name]["kernel"])

    gim = rule == "gim"
    of_value = np.einsum("hts,thd->shd", kept["pattern"], of_head) * (0.5 if gim else 1.0)
    read = into("v", of_value)
    if rule == "relp":
        return read
    of_pattern = np.einsum("thd,shd->hts", of_head, kept["v"]) * (0.5 if gim else 1.0)
    soft = softmax(kept["s"] / temperature) if gim else kept["pattern"]
    of_score = soft * (of_pattern - (of_pattern * soft).sum(-1, keepdims=True))
    of_score = of_score / np.sqrt(c.d_head) * (0.5 if gim else 1.0)
    read = read + into("q", np.einsum("hts,shd->thd", of_score, kept["k"]))
    return read + into("k", np.einsum("hts,thd->shd", of_score, kept["q"]))


def scores(model, prompts, rule, temperature=2.0):
    """(P, N) scores: heads layer by layer, then neurons."""
    rows = []
    for row in range(len(prompts)):
        n, end = int(prompts.length[row]), (int(prompts.answer[row]), int(prompts.distractor[row]))
        layers, out = forward(model, np.asarray(prompts.clean[row])[:n])
        other, _ = forward(model, np.asarray(prompts.corrupted[row])[:n])
        back = backward(model, layers, out, *end, rule, temperature)
        each = {"head_out": [], "neuron": []}
        for clean, counter, g in zip(layers, other, back, strict=True):
            for site, values in each.items():
                moved = (clean[site] - counter[site]) * g[site]
                values.append(moved.sum((0, 2) if site == "head_out" else 0))
        rows.append(np.concatenate([np.ravel(each["head_out"]), np.ravel(each["neuron"])]))
    return np.stack(rows)
