"""Relations in the layout of the LRE data, with invented places."""

import json

import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer, abstract
from hagd_jax.tasks import SPLITS, Sizes, benchmarks, modular, task
from hagd_jax.testbeds.small_training import SmallTrainConfig, decoder_config

from .conftest import byte_bpe

PLACES = [f"{a}{b}" for a in ("Nor", "Sul", "Ver", "Tam", "Bel") for b in ("dia", "mark", "land",
          "stan")]  # fmt: skip
TOWNS = [f"{a}{b}" for a in ("Quil", "Zor", "Hab", "Jun", "Wex") for b in ("bury", "ton", "ville",
         "port")]  # fmt: skip
ZERO, MORE = "The seat of {} is the town of", ("In {} the king lives in", "Now {} is ruled from")
SIZES = Sizes(8, 3, 6)


def relation(**changes):
    samples = [{"subject": a, "object": b} for a, b in zip(PLACES, TOWNS, strict=True)]
    # One more object of the first subject, and a repeated row.
    samples += [{"subject": PLACES[0], "object": "Yolk"}, samples[3]]
    return {
        "name": "seat of a land", "prompt_templates": [*MORE], "prompt_templates_zs": [ZERO],
        "properties": {"relation_type": "factual"}, "samples": samples,
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    """Subjects are whole, objects fall apart behind their first letters."""
    texts = [t.replace("{}", "x") for t in (ZERO, *MORE)]
    texts += [f"x {word}" for word in (*PLACES, *(town[:3] for town in TOWNS), "Yolk")]
    return Tokenizer(byte_bpe(texts).to_str())


@pytest.fixture
def save(tmp_path):
    def save(value):
        path = tmp_path / "relation.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return save


def test_the_first_token_of_an_object_follows_another_subjects_does_not(save, tokenizer):
    made = benchmarks.task("lre", tokenizer, save(relation()), sizes=SIZES)
    objects = dict(zip(PLACES, TOWNS, strict=True))
    subjects, templates = {}, {}
    for split in SPLITS:
        prompts, texts = made.splits[split], made.texts[split]
        for i, text in enumerate(texts):
            found = [
                (template, place) for template in (ZERO, *MORE) for place in PLACES
                if template.replace("{}", place) == text.clean
            ]  # fmt: skip
            ((template, place),) = found
            other = text.corrupted.removeprefix(template.split("{}")[0])
            other = other.removesuffix(template.split("{}")[1])
            assert other in PLACES
            subjects.setdefault(split, set()).update((place, other))
            templates.setdefault(split, set()).add(template)
            length = prompts.length[i]
            for side, said in (("clean", text.clean), ("corrupted", text.corrupted)):
                ids = getattr(prompts, side)[i, :length].tolist()
                assert ids == tokenizer.encode(said)
            tokens = prompts.answer[i] if prompts.answer.ndim > 1 else [prompts.answer[i]]
            right = {tokenizer.encode(f"{text.clean} {word}")[length] for word in
                     [objects[place], *["Yolk"] * (place == PLACES[0])]}  # fmt: skip
            assert {int(t) for t in tokens if t >= 0} == right
            assert right <= set(made.candidates)
        clusters = {text.template for text in texts}
        assert clusters == {f"seat of a land: {p}" for p in PLACES if any(
            p in t.clean for t in texts)}  # fmt: skip
    for one, other in (("discover", "select"), ("select", "test"), ("discover", "test")):
        assert not subjects[one] & subjects[other]
        assert not templates[one] & templates[other]
    assert not made.notes


def test_splits_share_templates_where_there_are_too_few(save, tokenizer):
    one = relation(prompt_templates=[ZERO], prompt_templates_zs=[])
    made = benchmarks.task("lre", tokenizer, save(one), sizes=SIZES)
    assert "all splits share a template: the file has 1" in made.notes
    two = relation(prompt_templates=[MORE[0]])
    made = benchmarks.task("lre", tokenizer, save(two), sizes=SIZES)
    assert "discover and select share a template: the file has 2" in made.notes
    assert {text.clean[:3] for text in made.texts["test"]} == {"In "}
    without = relation()
    del without["prompt_templates_zs"]
    assert benchmarks.task("lre", tokenizer, save(without), sizes=SIZES).notes


def test_objects_that_begin_alike_are_no_distractors(save, tokenizer):
    same = relation(samples=[{"subject": place, "object": "Quilbury"} for place in PLACES])
    said = "left out 20 of 20 prompts: no other subject of as many tokens with another object"
    with pytest.raises(InputError, match=f"at most 0 of its 20 prompts. Rows: {said}"):
        benchmarks.task("lre", tokenizer, save(same), sizes=SIZES)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("[1]", r"relation\.json: got list \[1\]; expected a JSON object"),
        ("{", r"relation\.json: got a text that is not JSON"),
        (relation(name=3), r"relation\.json: name: got 3; expected a text"),
        (relation(prompt_templates="x"), r"prompt_templates: got 'x'; expected a list"),
        (relation(prompt_templates_zs=[5]), r"prompt_templates_zs\[0\]: got 5; expected a text"),
        (relation(prompt_templates=["no slot"]),
         r"prompt_templates\[0\]: got 'no slot'; expected a text with one {}"),
        (relation(prompt_templates=["{0.x} {}{}"]), r"prompt_templates\[0\]: got"),
        (relation(prompt_templates=[], prompt_templates_zs=[]), "expected at least one template"),
        (relation(samples=[]), r"relation\.json: samples: got \[\]; expected a list"),
        (relation(samples=["x"]), r"relation\.json: samples\[0\]: got 'x'; expected a JSON object"),
        (relation(samples=[{"subject": "a"}]),
         r"samples\[0\]: object: got no such field; expected a text"),
        (relation(samples=[{"subject": " ", "object": "b"}]), r"samples\[0\]: subject: got ' '"),
        (relation(samples=[{"subject": "a", "object": "b" * 3000}]), r"samples\[0\]: object: got"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(save, tokenizer, broken, message):
    with pytest.raises(InputError, match=message):
        benchmarks.task("lre", tokenizer, save(broken))


def test_a_name_without_a_file_is_refused(tokenizer):
    small = decoder_config(modular.algorithm(7), SmallTrainConfig(d_model=8, n_heads=1, d_mlp=8))
    speaker = abstract(small).replace(tokenizer=tokenizer)
    for name in ("lre", "SVA", "blimp", "eap"):
        with pytest.raises(InputError, match=f"task {name.lower()}: got no file; expected a file, "
                           f"as in {name.lower()}:FILE"):  # fmt: skip
            task(name, speaker)
    with pytest.raises(InputError, match=r"absent\.json: got no such file"):
        task("lre:absent.json", speaker)
