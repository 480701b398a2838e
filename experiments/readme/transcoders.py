"""Make the README's rows about transcoders; see `readme/tables.py`."""

from __future__ import annotations

from collections.abc import Callable

from experiments.readme.rows import GIB, Row, Rows


def transcoder_parity(result: dict) -> list[Row]:
    """Make the row of the comparison of public transcoders with circuit-tracer."""
    worst = max(max(row["features"], row["errors"]) for row in result["rows"])
    what = "Features and error vectors of public transcoders, against circuit-tracer's"
    measured = f"at most {worst:.1e} apart in {len(result['rows'])} cases"
    return [(what, measured, "≤ 1e-5", "parity/transcoder.py")]


def modular_transcoder(result: dict) -> list[Row]:
    """Make the rows of transcoders of modular addition."""
    rows = result["rows"]

    def worst(name: str, pick: Callable = max) -> float:
        return pick(row[name] for row in rows)

    script = "transcoders/modular.py"
    what = f"Modular addition, MLP replaced by 256 features, 48 active; worst of {len(rows)} models"
    fvu = f"FVU {worst('fvu'):.4f} ({worst('fvu_at_answer'):.4f} at the answer alone)"
    return [
        (what, fvu, "≤ 0.005", script),
        ("the same: accuracy on held-out pairs", f"{worst('accuracy_replaced', min):.1%}",
         "≥ 99.5%", script),
        ("the same: seconds of training", f"{worst('train_seconds'):.0f} s", "≤ 30 s", script),
    ]  # fmt: skip


def transcoder_speed(result: dict) -> list[Row]:
    """Make the rows of the training speed beside eai-sparsify."""
    rows = result["rows"]
    ours = [row for row in rows if row["trainer"].startswith("hagd_jax")]
    wide, narrow = (row["fvu"] for row in ours)
    return [
        (
            f"SmolLM2, 30 transcoders at once: tokens/s over `{row['trainer']}`'s, same cores",
            f"{row['float32_faster_by']:.2f} in float32, {row['bfloat16_faster_by']:.2f} in "
            f"bfloat16; FVU {wide:.3f} and {narrow:.3f}, theirs {row['fvu']:.3f}",
            "≥ 1, aim 1.5; FVU no higher",
            "speed/transcoder.py",
        )
        for row in rows
        if row not in ours
    ]


def transcoder_account(result: dict) -> list[Row]:
    """Make the rows of where a training step spends its time."""
    rows = result["rows"]

    def ms(machine: str, part: str) -> float:
        return next(r["ms"] for r in rows if (r["machine"], r["part"]) == (machine, part))

    def parts(machine: str) -> str:
        """List the eight largest parts of a step, in milliseconds."""
        found = [r for r in rows if r["machine"] == machine and r["part"].startswith("step: ")]
        found.sort(key=lambda r: -r["ms"])
        return ", ".join(f"{r['part'].removeprefix('step: ')} {r['ms']:.0f}" for r in found[:8])

    gib = {r["machine"]: r["gib"] for r in rows if "gib" in r}
    step, limit = ms("CPU", "step"), ms("CPU", "limit")
    chips = ", ".join(f"{size:.2f} on {machine}" for machine, size in gib.items())
    script = "speed/transcoder_account.py"
    return [
        ("SmolLM2, 30 transcoders, 1,024 tokens: a step over its arithmetic limit",
         f"{step / limit:.2f} ({step:.0f} ms; {parts('CPU')})", "≤ 2", script),
        ("the same, 8,192 tokens, compiled for one TPU v5e chip, by its data sheet",
         f"{ms('v5e:1x1', 'step'):.0f} ms ({parts('v5e:1x1')}); arithmetic limit "
         f"{ms('v5e:1x1', 'limit'):.0f} ms", "", script),
        ("the same: memory of a chip, GiB", chips, "falls", script),
    ]  # fmt: skip


def transcoder_curve(result: dict) -> list[Row]:
    """Make the rows of FVU and loss recovered against training tokens."""
    out: list[Row] = []
    for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        points = ", ".join(
            f"{row['fvu']:.3f} / {row['loss_recovered']:.3f} at {row['tokens'] / 1000:.0f}k"
            for row in rows
        )
        what = f"SmolLM2 transcoders, {kind}: FVU / loss recovered after tokens"
        out.append((what, points, "FVU .15 to .20 (paper)", "transcoders/curve.py"))
    return out


def transcoder_kills(result: dict) -> list[Row]:
    """Make the row of killed trainings that end like uninterrupted ones."""
    measured = f"{result['identical']} of {result['kills']} end with the same bytes"
    return [("Transcoder training killed at random", measured, "all", "faults/transcoder.py")]


def plan_transcoder(result: dict) -> list[Row]:
    """Make the rows of the memory plans for a training step on TPU slices."""
    return [
        (
            f"Llama-2-70B, transcoder of {result['parameters'] / 1e9:.0f} billion parameters "
            f"(window 4, 8x): one training step, {row['topology']}",
            f"{row['total'] / GIB:.1f} GiB a chip"
            + ("" if row["fits"] else " of arguments; temporaries do not fit beside them"),
            f"< {row['memory'] / GIB:.2f} GiB",
            "scale/plan_transcoder.py",
        )
        for row in result["rows"]
    ]


ROWS: Rows = {
    "transcoder_parity": transcoder_parity,
    "modular_transcoder": modular_transcoder,
    "transcoder_speed": transcoder_speed,
    "transcoder_account": transcoder_account,
    "transcoder_curve": transcoder_curve,
    "transcoder_kills": transcoder_kills,
    "plan_transcoder": plan_transcoder,
}
