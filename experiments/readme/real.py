"""Make the README's rows about real models and large ones; see `readme/tables.py`."""

from __future__ import annotations

from experiments.readme.rows import GIB, Row, Rows

_GGUF = "parity/gguf.py"
_REAL = "circuits/real_models.py"


def gguf(result: dict) -> list[Row]:
    """Make the rows of the comparison with other readers of real GGUF files."""
    rows: list[Row] = []
    for name, file in result["files"].items():
        if "logits" in file:
            worst = max(row["largest"] for row in file["logits"])
            version = file["versions"]["transformers"]
            rows.append(
                (f"{name}: logits of {len(file['logits'])} prompts, against `transformers` "
                 f"{version} reading the same file", f"at most {worst:.1e} apart", "≤ 5e-3", _GGUF)
            )  # fmt: skip
        if "equal" in file:
            equal = " and ".join(f"{peer} {count:,}" for peer, count in file["equal"].items())
            measured = f"{equal} of {file['texts']:,}"
            rows.append((f"{name}: texts with the same token ids as", measured, "≥ 4,000", _GGUF))
    return rows


def compiled(result: dict) -> list[Row]:
    """Make the row of the compile times of the families, beside Llama's."""
    rows = [row for row in result.get("families", ()) if row["family"] != "llama"]
    if not rows:
        return []
    shares = ", ".join(
        f"{row['family']} {row['forward_ratio']:.2f} / {row['gradient_ratio']:.2f}" for row in rows
    )
    what = f"Compile the options of other families at {rows[0]['layers']} layers, over Llama's"
    return [(f"{what}: forward / gradient", shares, "≤ 1.3", "scale/compile_time.py")]


def plans(result: dict) -> list[Row]:
    """Make a row for each program of each large model: the slice that it fits, and its memory."""
    rows: list[Row] = []
    cells = dict.fromkeys((row["model"], row["program"]) for row in result["rows"])
    for model, program in cells:
        parts = [r for r in result["rows"] if (r["model"], r["program"]) == (model, program)]
        worst = max(parts, key=lambda row: row["total"] / row["memory"])
        rows.append(
            (f"{model}, {program}: {worst['topology']}", f"{worst['total'] / GIB:.2f} GiB a chip",
             f"< {worst['memory'] / GIB:.2f} GiB", "scale/plan_models.py")
        )  # fmt: skip
    return rows


def scope(result: dict) -> list[Row]:
    """Make the row of a graph over a dictionary that stays on disk."""
    (row,) = result["rows"]
    what = (
        f"Graph of {row['tokens']} tokens, {row['feature_nodes']:,} features, over "
        f"{result['dictionary_bytes'] / 1e9:.1f} GB of transcoders on disk (26 layers of 16,384), "
        f"{row['family']} of Gemma 2 2B's sizes in bfloat16"
    )
    measured = (
        f"peak {row['peak_gb']:.1f} GB, of which the model {row['model_gb']:.1f}; "
        f"{row['first_seconds']:.0f} s, again {row['seconds']:.0f} s"
    )
    return [(what, measured, f"≤ {result['limit_gb']} GB", "scale/gemmascope.py")]


def real(result: dict) -> list[Row]:
    """Make the rows of what the commands do on each real model."""
    rows: list[Row] = []
    for name in dict.fromkeys(row["model"] for row in result["rows"]):
        parts = {
            (row["part"], row["of"]): row for row in result["rows"] if row["model"] == name
        }  # fmt: skip
        rows += _tasks(name, parts) + _graphs(name, parts)
        if ("transcoder", "text") in parts:
            row = parts["transcoder", "text"]
            rows.append(
                (f"{name}: a transcoder of {row['trained_tokens'] / 1000:,.0f} thousand tokens",
                 f"FVU {row['mean_fvu']:.2f}, loss {row['loss']:.2f} → {row['loss_replaced']:.2f} "
                 f"({row['loss_zero']:.2f} without MLPs), {row['loss_recovered']:.0%} recovered",
                 "reported", _REAL)
            )  # fmt: skip
        rows += [_circuit(name, *key, row) for key, row in parts.items()
                 if key[0] in ("circuit", "validation")]  # fmt: skip
    return rows


def _tasks(name: str, parts: dict) -> list[Row]:
    """The row of the accuracy on all tasks."""
    found = {key[1]: row for key, row in parts.items() if key[0] == "tasks"}
    shown = [f"{task} {row['accuracy']:.1%}" for task, row in found.items() if "accuracy" in row]
    missing = [task for task, row in found.items() if "refused" in row]
    if not found:
        return []
    text = ", ".join(shown).replace("_", " ")
    if missing:
        text += f"; too few prompts of {', '.join(missing).replace('_', ' ')}"
    return [(f"{name}: accuracy on the tasks of language", text, "≥ 80%, else unfit", _REAL)]


def _graphs(name: str, parts: dict) -> list[Row]:
    """The row of the graphs of single prompts."""
    found = {key[1]: row for key, row in parts.items() if key[0] == "graph"}
    if not found:
        return []
    text = ", ".join(
        f"{task} {row['targets'][0]!r}, {row['nodes']:,} nodes of {row['of_active']:,} active in "
        f"{row['command_seconds']:.0f} s"
        for task, row in found.items()
    )
    return [(f"{name}: `hagd attribute`, first target", text, "reported", _REAL)]


def _circuit(name: str, part: str, task: str, row: dict) -> Row:
    """The row of one circuit, or of its validation from its file."""
    words = ["extract", *row["words"]] if part == "circuit" else ["validate"]
    what = f"{name}: circuit of {task}, by `hagd {' '.join(words)}`"
    if "claims" not in row:
        return what, row["verdict"], "accepted", _REAL
    held = [
        f"{claim['name']} {claim['value']:.2f} ({claim['ablation']})"
        for claim in row["claims"]
        if claim["decides"] and claim["verdict"] != "holds" and claim["value"] is not None
    ]
    text = (
        f"{row['verdict']} on {row['prompts']} test prompts: {row['members']:,} units with "
        f"{row['leaves']:,} of {row['units']:,} nodes"
    )
    if held:
        text += f"; does not hold: {', '.join(held)}"
    return what, text, "accepted", _REAL


ROWS: Rows = {
    "gguf_parity": gguf, "gemmascope_llama": scope, "gemmascope_gemma2": scope,
    "compile_time": compiled, "plan_models": plans, "real_models": real,
}  # fmt: skip
