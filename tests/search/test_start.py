"""The choice among scores against circuits measured one by one."""

import jax
import numpy as np
import pytest

from hagd_jax.causal import Ablation, behaviour
from hagd_jax.errors import ConfigError, InputError
from hagd_jax.scores import conductance, eap
from hagd_jax.search import best_start, top_nodes
from hagd_jax.tasks import Seen, look, make_prompts
from hagd_jax.units import Nodes, Scores
from tests.models.noise import noisy
from tests.scores.test_relevance import PLAIN

MODEL = noisy(PLAIN, 4)
ROWS, OTHER = np.random.default_rng(2).integers(0, 12, (2, 12, 5)).tolist()
PROMPTS = make_prompts(ROWS, OTHER, [1, 2] * 6, [3, 4] * 6, vocab_size=12)
DISCOVER, SELECT = PROMPTS[::2], PROMPTS[1::2]


def the_starts():
    good = conductance(MODEL, DISCOVER)
    return {"worst": good.like(-good.flat()), "eap": eap(MODEL, DISCOVER), "good": good}


def test_the_table_is_that_of_circuits_one_by_one():
    starts, sizes = the_starts(), (6, 14)
    under = ("counterfactual", Ablation("mean", DISCOVER))
    found = best_start(MODEL, SELECT, starts, sizes, ablations=under)
    rows = {(row.name, row.ablation, row.nodes): row for row in found.table}
    assert len(rows) == 12
    for ablation in under:
        kind = ablation if isinstance(ablation, str) else ablation.kind
        for name, scores in starts.items():
            for size in sizes:
                mask = top_nodes(scores, size).mask
                empty = Nodes.full(mask.space, False)
                own = behaviour(MODEL, SELECT, [mask, empty], ablation=ablation, with_model=True)
                kl, m = own.kl.mean(1), own.metric.mean(1)
                row = rows[name, kind, size]
                np.testing.assert_allclose(row.kl, kl[1] / kl[2], rtol=1e-4, atol=1e-6)
                f = (m[1] - m[2]) / (m[0] - m[2])
                np.testing.assert_allclose(row.distance, abs(1 - f), rtol=1e-4, atol=1e-5)
    for name, loss in found.losses.items():
        own = [row.kl for row in found.table if row.name == name]
        np.testing.assert_allclose(loss, np.mean(own))
    assert found.name == min(found.losses, key=found.losses.get) != "worst"
    np.testing.assert_array_equal(found.scores.flat(), starts[found.name].flat())


def test_the_best_has_seen_what_all_have_and_the_select_split():
    starts = the_starts()
    more = Seen(ablations=["zero"], prompts=["00c0ffee"])
    starts["worst"] = starts["worst"].after(more)
    found = best_start(MODEL, SELECT, starts, [14], ablations=["mean"], measure="distance")
    seen = found.scores.seen
    assert found.name != "worst"
    assert seen.known
    assert seen.splits == ("select",)
    assert set(seen.ablations) == {"counterfactual", "mean", "zero"}
    assert seen.has(SELECT).all()
    assert seen.has(DISCOVER).all()
    assert "00c0ffee" in seen.prompts
    # The candidates themselves stay as they were.
    assert starts[found.name].seen == look(
        DISCOVER, ablation="counterfactual", model=MODEL, dictionary="neurons"
    )


def test_of_equals_the_first_is_chosen():
    good = the_starts()["good"]
    assert best_start(MODEL, SELECT, {"b": good, "a": good}, [4]).name == "b"


def test_an_ablation_that_changes_nothing_is_left_out():
    starts = the_starts()
    still = SELECT.__class__(**{**vars(SELECT), "corrupted": SELECT.clean})
    found = best_start(MODEL, still, starts, [4, 9], ablations=["counterfactual", "zero"])
    alone = best_start(MODEL, still, starts, [4, 9], ablations=["zero"])
    assert found.table == alone.table
    assert found.losses == alone.losses
    assert "counterfactual" in found.scores.seen.ablations


def test_bad_input_is_refused():
    good, model = the_starts()["good"], MODEL
    for starts in ({}, {"a": good.values}, [good], {1: good}):
        with pytest.raises(InputError, match="starts"):
            best_start(model, SELECT, starts, [4])
    with pytest.raises(InputError, match="sizes"):
        best_start(model, SELECT, {"a": good}, [])
    with pytest.raises(InputError, match="sizes"):
        best_start(model, SELECT, {"a": good}, [99])
    with pytest.raises(InputError, match="ablations"):
        best_start(model, SELECT, {"a": good}, [4], ablations=[])
    with pytest.raises(ConfigError, match="measure"):
        best_start(model, SELECT, {"a": good}, [4], measure="cmd")  # type: ignore[arg-type]
    nothing = Scores(good.values, good.seen)
    same = Ablation("counterfactual")
    still = SELECT[:2].__class__(**{**vars(SELECT[:2]), "corrupted": SELECT[:2].clean})
    with pytest.raises(InputError, match="all nodes ablated"):
        best_start(model, still, {"a": nothing}, [4], ablations=[same])
    broken = model.replace(params=jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(InputError, match="not finite"):
        best_start(broken, SELECT, {"a": good}, [4], ablations=[same])


def test_scores_are_not_compared_on_prompts_that_made_them():
    with pytest.raises(InputError, match="1 that the scores 'good' were made from"):
        best_start(MODEL, PROMPTS[1::2], {"good": conductance(MODEL, PROMPTS[:2])}, [4])
