"""Experiments on transcoders, at toy size; and the text that they are trained on."""

import dataclasses
import gzip

import numpy as np
import pytest

from experiments.common import power_law
from experiments.speed import transcoder as transcoder_speed
from experiments.speed import transcoder_account
from experiments.transcoders import curve, english, modular, two_hop
from hagd_jax.errors import ConfigError, InputError, MissingDependencyError
from hagd_jax.testbeds import SmallTrainConfig
from hagd_jax.testbeds.two_hop import TwoHopConfig
from hagd_jax.transcoders import LossConfig, TrainConfig

PAGE = """<html><body><div class="nav">skip</div><div role="main">
<h1>Title<a class="headerlink">#</a></h1><p>One  paragraph of
text.</p><h2>Next</h2><pre>code  kept</pre></div></body></html>"""


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """What Debian packages would have installed."""
    folder = tmp_path_factory.mktemp("share")
    pages = folder / "doc/python3.11/html"
    pages.mkdir(parents=True)
    for name in ("a", "genindex"):
        (pages / f"{name}.html").write_text(PAGE)
    (folder / "dictd").mkdir()
    entries = "00-database-info\n   About\n\nCat \\Cat\\, n.\n   An animal. [1913 Webster]\n"
    (folder / "dictd/gcide.dict.dz").write_bytes(gzip.compress(entries.encode()))
    (folder / "games/fortunes").mkdir(parents=True)
    sayings = [f"Saying {i} went to the store, and gave a drink to Mary." for i in range(300)]
    (folder / "games/fortunes/all").write_text("\n%\n".join(sayings))
    return folder


@pytest.fixture(scope="module")
def text(share, tmp_path_factory):
    """A corpus made of it."""
    folder = tmp_path_factory.mktemp("english")
    english.main(english.Config(folder, share=share))
    return folder


def test_english_is_what_the_packages_say(share, text, tmp_path):
    files = {path.name.split("-", 1)[1]: path.read_text() for path in text.glob("*.txt")}
    assert (
        files["python3.11-doc-00000.txt"]
        == "Title\n\nOne paragraph of text.\n\nNext\n\ncode  kept\n"
    )
    assert files["dict-gcide-00000.txt"] == "Cat, n. An animal.\n"
    assert sum(name.startswith("fortunes") for name in files) == 5
    with pytest.raises(InputError, match="empty"):
        english.main(english.Config(text, share=share))
    with pytest.raises(MissingDependencyError, match="apt-get"):
        english.main(english.Config(tmp_path / "new", share=tmp_path))


def test_a_curve_goes_on_where_it_was(tiny, text, places, tmp_path, read):
    config = curve.Config(
        **places, text=text, out=tmp_path / "out", kinds=("window 0",), budgets=(64, 128), batch=2,
        length=8, features="20", k=4, held_out=2, model=tiny, warmup=1,
    )  # fmt: skip
    curve.main(config)
    rows = read("transcoder_curve")["rows"]
    assert [row["tokens"] for row in rows] == [64, 128]
    for row in rows:
        assert row["fvu"] > 0
        assert row["active_features"] == 4
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("point-*.json"))]
    curve.main(config)
    assert read("transcoder_curve")["rows"] == rows
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("point-*.json"))]
    assert times == again
    with pytest.raises(ConfigError, match="--budgets"):
        curve.main(dataclasses.replace(config, budgets=(16,), out=tmp_path / "other"))
    with pytest.raises(ConfigError, match="window 9"):
        dataclasses.replace(config, kinds=("window 9",))


def test_a_power_law_is_found_again():
    tokens = 1000 * 2.0 ** np.arange(6)
    found = power_law.describe(tokens, 0.1 + 3 * tokens**-0.4, (0.2, 0.05))
    assert found["law"]["floor"] == pytest.approx(0.1, abs=1e-3)
    assert found["residual"] < 1e-4
    assert found["last_point"]["predicted"] == pytest.approx(
        found["last_point"]["measured"], rel=1e-3
    )
    assert found["tokens_for"]["FVU 0.05"]["tokens"] is None  # below the floor


def test_a_transcoder_of_modular_addition_is_measured(places, read):
    modular.main(
        modular.Config(
            **places, seeds=(0,), modulus=5,
            model=SmallTrainConfig(d_model=16, n_heads=2, d_mlp=8, steps=2, check_every=2,
                                   batch_size=8),
            train=TrainConfig(features="12", k=3, batch_size=4, tokens=4 * 3 * 4, estimate=1),
        )
    )  # fmt: skip
    (row,) = read("modular_transcoder")["rows"]
    assert row["held_out_pairs"] + 17 == 5 * 5
    assert row["l0"] == 3
    assert row["fvu"] > 0.005  # nobody trained it
    assert 0 <= row["accuracy_replaced"] <= 1


def test_two_hop_models_are_measured_once(places, tmp_path, read):
    config = two_hop.Config(
        **places, models=2, out=tmp_path / "rows", steps=2, rows=1,
        sizes=(TwoHopConfig(chains=4, n_layers=3, d_model=24),),
    )  # fmt: skip
    two_hop.main(config)
    neurons, trained = read("two_hop")["rows"]
    # Neurons are the mechanism itself: nothing is unexplained, and nothing passes the middle by.
    assert neurons["fvu"] < 1e-6
    assert neurons["jacobian_random"] < 1e-6
    assert abs(neurons["skip_share"]) < 1e-3
    assert trained["fvu"] > 0.01
    assert trained["skip_share_se"] >= 0
    two_hop.main(config)
    assert read("two_hop")["rows"] == [neurons, trained]


def test_our_side_trains_in_turns_with_itself(tiny, text, places, read):
    transcoder_speed.main(
        transcoder_speed.Config(
            **places, text=text, peer_python="", peers=(), rounds=2, block=1, batch=2, length=8,
            features=20, k=4, held_out=2, model=tiny,
        )
    )  # fmt: skip
    result = read("transcoder_speed")
    assert [row["trainer"] for row in result["rows"]] == ["hagd_jax float32", "hagd_jax bfloat16"]
    ours, narrow = result["rows"]
    assert ours["float32_faster_by"] == narrow["bfloat16_faster_by"] == 1
    assert ours["fvu"] == pytest.approx(narrow["fvu"], rel=0.2)
    assert ours["active_features"] == 4


def test_variants_of_the_peer_are_read_from_their_names():
    found = transcoder_speed.variant("adam@0.001/2+memory+bfloat16")
    assert found == {
        "optimizer": "adam", "rate": 0.001, "parts": 2, "memory": True, "narrow": True
    }  # fmt: skip
    with pytest.raises(ConfigError, match="OPTIMIZER"):
        transcoder_speed.Config(text="text", peer_python="python", peers=("sgd",))


def test_ours_behind_a_peer_is_noticed():
    def row(trainer, fvu, faster):
        faster = {f"{dtype}_faster_by": faster for dtype in transcoder_speed.DTYPES}
        return {"trainer": trainer, "fvu": fvu} | faster

    ours = [row("hagd_jax float32", 0.5, 1.0), row("hagd_jax bfloat16", 0.5, 1.0)]
    assert not transcoder_speed.behind([*ours, row("peer", 0.6, 1.2)])
    assert transcoder_speed.behind([*ours, row("peer", 0.4, 1.2)])
    assert transcoder_speed.behind([*ours, row("peer", 0.6, 0.9)])


def test_a_step_is_accounted_for(tiny, text, places, read):
    config = transcoder_account.Config(
        **places, text=text, model=tiny, length=8, steps=1, warm=1, slices=(),
        train=TrainConfig(features="20", k=4, batch_size=2, tokens=10**4, estimate=1,
                          loss=LossConfig(jacobian=0.0)),
    )  # fmt: skip
    with pytest.raises(SystemExit, match="twice"):  # so small a step is all overhead
        transcoder_account.main(config)
    rows = {row["part"]: row for row in read("transcoder_account")["rows"]}
    parts = sum(row["ms"] for name, row in rows.items() if name.startswith("step: "))
    assert parts == pytest.approx(rows["step"]["ms"], rel=0.05)
    assert rows["limit"]["ms"] >= 0
    assert rows["products, GFLOP/s"]["gflops"] > 0.1
