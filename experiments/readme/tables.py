"""Write the README's tables of results from the JSON files in results/.

    python -m experiments.readme.tables

Replaces what stands between the markers `<!-- results -->` and `<!-- /results -->`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import experiments.readme.smollm2 as readme_smollm2
import experiments.readme.stages as readme_stages
from experiments.common.record import RESULTS
from experiments.readme import attribution, judge, method

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- results -->\n", "<!-- /results -->"
GIB = 2**30
Row = tuple[str, str, str, str]
CHAINS = (
    "Boolean models whose chains A → B → C are known (`transcoders/two_hop.py`, 20 models): the "
    "share of A's effect on C that a transcoder attributes past B, 0 being the truth, and how far"
    " its Jacobian is from the MLPs' (0 equal, 1 no better than nothing), on inputs left out of "
    "training:"
)


def load(name: str) -> dict:
    return json.loads(file(name).read_text())


def file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def claims() -> str:
    """What was asked of the ground floor, and what was measured."""
    rows = [parity(), tokens(), *language(), memory(), compile_time(), speed(), *plans()]
    rows += [row for name, make in OPTIONAL.items() if file(name).exists() for row in make()]
    others = attribution.ROWS | judge.ROWS | method.ROWS
    made = [(name, make) for name, make in others.items() if file(name).exists()]
    rows += [row for name, make in made for row in make(load(name))]
    return table(("what", "measured", "target", "script"), rows)


def parity() -> Row:
    runs = load("hf_parity")["runs"]
    versions = " and ".join(name.split()[-1] for name in runs)
    cases = max(len(run["cases"]) for run in runs.values())
    what = f"Logits, hidden states and folders read back, against `transformers` {versions}"
    worst = max(run["largest"] for run in runs.values())
    measured = f"at most {worst:.1e} apart in {cases} configurations"
    return what, measured, "≤ 1e-4", "parity/hf.py"


def tokens() -> Row:
    result = load("smollm2_tokenizer")
    row = next(row for row in result["rows"] if row["file"].startswith("SmolLM2"))
    measured = f"{row['equal']:,} of {row['texts']:,} texts"
    different = result["differences"][row["file"]]
    if different and all(text["lost"] for text in different):
        measured += "; the rest hold a byte that its vocabulary lacks"
    return "SmolLM2's token ids against llama.cpp", measured, "all", "parity/tokenizer.py"


def language() -> list[Row]:
    result = load("task_accuracy")
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
    """Accuracies by name."""
    parts = (f"{row[name]} {row['accuracy']:.1%}" for row in rows)
    return ", ".join(part.replace("_", " ") for part in parts)


def memory() -> Row:
    row = next(row for row in load("loading_memory")["rows"] if row["devices"] == 8)
    measured = f"{row['peak_over_model']:.2f} of the model's size"
    what = "Peak host memory, loading 1 GB of bfloat16 on 8 devices (2 x 4)"
    return what, measured, "≤ 1.25", "scale/loading_memory.py"


def compile_time() -> Row:
    rows = load("compile_time")["rows"]
    forward, gradient = (max(row[k] for row in rows) for k in ("forward_s", "gradient_s"))
    what = "Compile Llama-70B (80 layers): forward, gradient"
    return what, f"{forward:.1f} s, {gradient:.1f} s", "≤ 5 s, ≤ 10 s", "scale/compile_time.py"


def speed() -> Row:
    shapes = load("forward_speed")["rows"]
    ratios = ", ".join(f"{r['ratio']:.2f} at {r['batch']} x {r['length']}" for r in shapes)
    alone = ", ".join(f"{r['ratio_one_device']:.2f}" for r in shapes)
    what = "SmolLM2 forward tokens/s over PyTorch's, same cores: mesh `replica=2` (one device)"
    return what, f"{ratios} ({alone})", "≥ 1", "speed/forward.py"


def plans() -> list[Row]:
    return [
        (
            f"Llama-70B forward, three sites captured, 8 x 2048 tokens, {row['topology']}",
            f"{row['total'] / GIB:.2f} GiB a chip",
            f"< {row['memory'] / GIB:.2f} GiB",
            "scale/plan_forward.py",
        )
        for row in load("plan_llama70b")["rows"]
    ]


def devices() -> list[Row]:
    rows = load("devices")["rows"]
    tasks = dict.fromkeys(row["task"] for row in rows)
    return [device_row([row for row in rows if row["task"] == task]) for task in tasks]


def device_row(rows: list[dict]) -> Row:
    """The worst over meshes of one task."""
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


def timings() -> list[Row]:
    return [
        (
            f"`{row['step']}` on a fresh checkout",
            f"{row['seconds']:.0f} s" + ("" if row["status"] == 0 else ", failed"),
            f"≤ {row['limit_seconds']} s",
            "speed/timings.py",
        )
        for row in load("timings")["rows"]
        if row["limit_seconds"] is not None
    ]


def transcoder_parity() -> list[Row]:
    result = load("transcoder_parity")
    worst = max(max(row["features"], row["errors"]) for row in result["rows"])
    what = "Features and error vectors of public transcoders, against circuit-tracer's"
    measured = f"at most {worst:.1e} apart in {len(result['rows'])} cases"
    return [(what, measured, "≤ 1e-5", "parity/transcoder.py")]


def modular_transcoder() -> list[Row]:
    rows = load("modular_transcoder")["rows"]

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


def transcoder_speed() -> list[Row]:
    rows = load("transcoder_speed")["rows"]
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


def transcoder_account() -> list[Row]:
    rows = load("transcoder_account")["rows"]

    def ms(machine: str, part: str) -> float:
        return next(r["ms"] for r in rows if (r["machine"], r["part"]) == (machine, part))

    def parts(machine: str) -> str:
        """The largest parts of a step."""
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


def transcoder_curve() -> list[Row]:
    result = load("transcoder_curve")
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


def transcoder_kills() -> list[Row]:
    result = load("transcoder_kills")
    measured = f"{result['identical']} of {result['kills']} end with the same bytes"
    return [("Transcoder training killed at random", measured, "all", "faults/transcoder.py")]


def plan_transcoder() -> list[Row]:
    result = load("plan_transcoder")
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


OPTIONAL = {
    make.__name__: make
    for make in (
        devices,
        transcoder_parity,
        modular_transcoder,
        transcoder_speed,
        transcoder_account,
        transcoder_curve,
        transcoder_kills,
        plan_transcoder,
        timings,
    )
}


def smollm2() -> str:
    """Circuits of a real model."""
    found = {name: load(name) for name in readme_smollm2.NAMES if file(name).exists()}
    return table(readme_smollm2.HEAD, readme_smollm2.rows(found))


def stages() -> str:
    """What each stage gives."""
    return table(readme_stages.HEAD, readme_stages.rows(load("ablation_study")))


def chains() -> str:
    """Two-hop models: what keeps the middle feature."""
    rows = [row for row in load("two_hop")["rows"] if row["pressure"] in ("k=2", "l1=.1")]
    shown = [row for row in rows if row["jacobian"] in (0.0, 0.3)]
    return table(
        ("features", "window", "prediction head", "Jacobian loss", "FVU", "Jacobian mismatch",
         "skip share"),
        [
            (
                "TopK" if row["pressure"] == "k=2" else "ReLU",
                row["window"],
                "yes" if row["head"] else "no",
                ("no" if not row["jacobian"] else "all tokens" if row["every"] == 1 else "1 in 8"),
                f"{row['fvu']:.4f}",
                f"{row['jacobian_random']:.3f}",
                f"{row['skip_share']:.3f} ± {row['skip_share_se']:.3f}",
            )
            for row in shown
        ],
    )  # fmt: skip


def main() -> None:
    text = README.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    told = ((readme_smollm2.TEXT, smollm2), (readme_stages.TEXT, stages), (CHAINS, chains))
    body = "\n".join([claims(), *(f"{text}\n\n{made()}" for text, made in told)])
    README.write_text(before + START + body + END + after)


if __name__ == "__main__":
    main()
