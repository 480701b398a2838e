"""Make the README's rows about models, tasks and machines; see `readme/tables.py`."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.readme.rows import GIB, Row, Rows


def parity(result: dict) -> list[Row]:
    """Make the row of the comparison with `transformers`."""
    runs = result["runs"]
    versions = " and ".join(name.split()[-1] for name in runs)
    cases = max(len(run["cases"]) for run in runs.values())
    what = f"Logits, hidden states and folders read back, against `transformers` {versions}"
    worst = max(run["largest"] for run in runs.values())
    measured = f"at most {worst:.1e} apart in {cases} configurations"
    return [(what, measured, "≤ 1e-4", "parity/hf.py")]


def tokens(result: dict) -> list[Row]:
    """Make the row of the comparison of token ids with llama.cpp."""
    row = next(row for row in result["rows"] if row["file"].startswith("SmolLM2"))
    measured = f"{row['equal']:,} of {row['texts']:,} texts"
    different = result["differences"][row["file"]]
    if different and all(text["lost"] for text in different):
        measured += "; the rest hold a byte that its vocabulary lacks"
    return [("SmolLM2's token ids against llama.cpp", measured, "all", "parity/tokenizer.py")]


def language(result: dict) -> list[Row]:
    """Make the rows of the models' accuracy on their tasks."""
    tops = [words[0] for words in result["top_tokens"].values()]
    found = ", ".join(f"“{word}” {probability:.2f}" for word, probability in tops)
    tests = [row for row in result["rows"] if row["split"] == "test"]
    ioi = next(row for row in tests if row["task"] == "ioi")
    script = "circuits/task_accuracy.py"
    return [
        ("SmolLM2 from GGUF: top tokens on two known prompts", found, "Paris, Mary", script),
        (f"IOI accuracy, {ioi['prompts']} prompts", f"{ioi['accuracy']:.1%}", "≥ 99%", script),
        ("SmolLM2's accuracy on the other tasks of language",
         _shares(row for row in tests if row["model"] == ioi["model"] and row is not ioi),
         "≥ 80%, else unfit", script),
        ("Small models' accuracy on inputs never trained on",
         _shares((row for row in tests if row["model"] != ioi["model"]), "model"),
         "≥ 99%", script),
    ]  # fmt: skip


def _shares(rows: Iterable[dict], name: str = "task") -> str:
    """List the accuracies of rows with their names."""
    parts = (f"{row[name]} {row['accuracy']:.1%}" for row in rows)
    return ", ".join(part.replace("_", " ") for part in parts)


def published(result: dict) -> list[Row]:
    """Make a row for each model: its accuracy on the rows of published benchmarks."""
    found: dict[str, list[str]] = {}
    for row in result["rows"]:
        name = "acc_norm" if row["benchmark"] == "hellaswag" else "acc"
        found.setdefault(row["model"], []).append(
            f"{row['benchmark']} {row[name]:.1%} ({row[f'{name}_from']:.1%} to "
            f"{row[f'{name}_to']:.1%}, {row['rows']} rows)"
        )
    what = "Accuracy on published rows, as lm-evaluation-harness counts it"
    return [
        (f"{what}: {model}", ", ".join(own), "chance is 50%, of HellaSwag 25%",
         "circuits/benchmarks.py")
        for model, own in found.items()
    ]  # fmt: skip


def memory(result: dict) -> list[Row]:
    """Make the row of peak host memory while a model is loaded."""
    row = next(row for row in result["rows"] if row["devices"] == 8)
    measured = f"{row['peak_over_model']:.2f} of the model's size"
    what = "Peak host memory, loading 1 GB of bfloat16 on 8 devices (2 x 4)"
    return [(what, measured, "≤ 1.25", "scale/loading_memory.py")]


def compile_time(result: dict) -> list[Row]:
    """Make the row of the compile time of a large model."""
    rows = result["rows"]
    forward, gradient = (max(row[k] for row in rows) for k in ("forward_s", "gradient_s"))
    what = "Compile Llama-70B (80 layers): forward, gradient"
    measured = f"{forward:.1f} s, {gradient:.1f} s"
    return [(what, measured, "≤ 5 s, ≤ 10 s", "scale/compile_time.py")]


def speed(result: dict) -> list[Row]:
    """Make the row of the forward speed beside PyTorch."""
    shapes = result["rows"]
    ratios = ", ".join(f"{r['ratio']:.2f} at {r['batch']} x {r['length']}" for r in shapes)
    alone = ", ".join(f"{r['ratio_one_device']:.2f}" for r in shapes)
    name = result["model"].partition(",")[0]
    what = f"{name}: tokens/s over PyTorch's, same cores: mesh `replica=2` (one device)"
    return [(what, f"{ratios} ({alone})", "≥ 1", "speed/forward.py")]


def plans(result: dict) -> list[Row]:
    """Make the rows of the memory plans for forward passes on TPU slices."""
    return [
        (
            f"Llama-70B forward, three sites captured, 8 x 2048 tokens, {row['topology']}",
            f"{row['total'] / GIB:.2f} GiB a chip",
            f"< {row['memory'] / GIB:.2f} GiB",
            "scale/plan_forward.py",
        )
        for row in result["rows"]
    ]


def devices(result: dict) -> list[Row]:
    """Make a row for each task that was run on one device and on several."""
    rows = result["rows"]
    tasks = dict.fromkeys(row["task"] for row in rows)
    return [device_row([row for row in rows if row["task"] == task]) for task in tasks]


def device_row(rows: list[dict]) -> Row:
    """Make the row of one task, with the largest difference over all meshes."""
    meshes = ", ".join(f"`{row['mesh']}`" for row in rows)
    what = f"{rows[0]['task']} circuit on 8 devices, as {meshes}, against one device"
    score, verdict = (
        max(row[f"{name}_difference"] for row in rows) for name in ("score", "verdict")
    )
    measured = (
        f"{min(row['jaccard'] for row in rows):.2%} of {rows[0]['nodes']:,} nodes shared, scores "
        f"within {score:.0e} of the largest, verdicts within {verdict:.0e}"
    )
    return what, measured, "the same nodes", "scale/devices.py"


def timings(result: dict) -> list[Row]:
    """Make the rows of the times of the Makefile's commands."""
    return [
        (
            f"`{row['step']}` on a fresh checkout",
            f"{row['seconds']:.0f} s" + ("" if row["status"] == 0 else ", failed"),
            f"≤ {row['limit_seconds']} s",
            "speed/timings.py",
        )
        for row in result["rows"]
        if row["limit_seconds"] is not None
    ]


ROWS: Rows = {
    "hf_parity": parity,
    "smollm2_tokenizer": tokens,
    "task_accuracy": language,
    "benchmarks": published,
    "loading_memory": memory,
    "compile_time": compile_time,
    "forward_speed": speed,
    "forward_speed_qwen2.5-coder-0.5b": speed,
    "plan_llama70b": plans,
    "devices": devices,
}
LAST: Rows = {"timings": timings}
