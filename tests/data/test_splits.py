import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.splits import choose_split, is_split, split_word


@pytest.mark.parametrize("name", ["train", "Test", "dev-2", "train_prefs", "validation.clean", "eval1", "TRAINING"])
def test_names_of_splits(name):
    assert is_split(name)


@pytest.mark.parametrize(
    "name", ["", "1", "pairs", "contest", "trainer", "2024-train", "hh-train", "latest", "value", "é"]
)
def test_names_of_other_things(name):
    assert not is_split(name)


def test_the_word_may_stand_anywhere():
    assert [split_word(name) for name in ("hh-train", "2024_test-v2", "latest", "")] == ["train", "test", None, None]


def test_the_only_split_needs_no_name_and_a_name_finds_its_split():
    assert choose_split(["a"], None, "x") == "a"
    assert choose_split(["a", "b"], "b", "x") == "b"
    assert choose_split(["train", "Validation"], "dev", "x") == "Validation"
    assert choose_split(["Train", "Test"], "train", "x") == "Train"
    assert choose_split(["train", "test", "eval"], "eval", "x") == "eval"


@pytest.mark.parametrize(
    ("names", "asked", "says"),
    [
        (["b", "a"], None, "x y, split: none was named; the splits are a, b\n"),
        (["train", "test"], "dev", "there is no split 'dev'; the splits are test, train\n"),
        (["test", "eval"], "testing", "there is no split 'testing'; the splits are eval, test\n"),
        ([], None, "none was named; the splits are (none)"),
    ],
)
def test_otherwise_the_splits_are_listed_with_the_option(names, asked, says):
    with pytest.raises(DataError) as caught:
        choose_split(names, asked, "x y")
    assert says in str(caught.value)
    assert not names or "--data.sources.path 'x y' --data.sources.split" in str(caught.value)
