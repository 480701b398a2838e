import pytest

from hagd_jax.errors import InputError
from hagd_jax.models import Tokenizer
from hagd_jax.tasks import Text, single_tokens, text_task, word_token


def test_word_token_is_what_follows_in_a_sentence(tokenizer, bos_tokenizer):
    for t in (tokenizer, bos_tokenizer):
        for word in ("Mary", "John", "Berlin"):
            assert t.encode(f"to {word}")[-1] == word_token(t, word)
            assert t.token(word_token(t, word)) == f" {word}"


def test_word_token_of_a_word_vocabulary():
    assert word_token(Tokenizer.words(["a", "b", "="]), "b") == 1


def test_a_word_of_many_pieces_is_refused_by_name(tokenizer):
    with pytest.raises(InputError, match=r"answer 'Vanessa': got \d pieces \["):
        word_token(tokenizer, "Vanessa")


def test_an_unknown_word_is_refused():
    with pytest.raises(InputError, match="zebra"):
        word_token(Tokenizer.words(["a", "b"]), "zebra")


def test_an_unknown_token_is_not_the_word():
    import tokenizers
    from tokenizers import models, pre_tokenizers

    native = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    native.pre_tokenizer = pre_tokenizers.Whitespace()
    t = Tokenizer(native.to_str())
    assert single_tokens(t, ["a", "zebra", "yak"]) == {"a": 1}
    with pytest.raises(InputError, match="1 pieces"):
        word_token(t, "zebra")


def test_single_tokens_filters(tokenizer):
    kept = single_tokens(tokenizer, ["Mary", "Vanessa", "John"])
    assert list(kept) == ["Mary", "John"]


def test_text_task_pads_all_splits_alike(tokenizer):
    short = Text("to Mary", "to John", "Mary", "John", "")
    long = Text("When Mary went to", "When John went to", "John", "Mary", "")
    made = text_task("mine", tokenizer, {"discover": [short], "test": [long]}, description="")
    widths = {split: p.clean.shape[1] for split, p in made.splits.items()}
    assert widths["discover"] == widths["test"] == len(tokenizer.encode(long.clean))
    assert made.splits["discover"].length.tolist() == [len(tokenizer.encode(short.clean))]


def test_text_task_refuses_unequal_lengths(tokenizer):
    text = Text("to Mary", "to Mary and John", "Mary", "John", "")
    with pytest.raises(InputError, match=r"'to Mary' with counterfactual 'to Mary and John': got"):
        text_task("mine", tokenizer, {"test": [text]}, description="")


def test_text_task_refuses_answers_of_many_pieces(tokenizer):
    text = Text("to Mary", "to John", "Vanessa", "John", "")
    with pytest.raises(InputError, match="Vanessa"):
        text_task("mine", tokenizer, {"test": [text]}, description="")
