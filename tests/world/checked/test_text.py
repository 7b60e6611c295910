import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.world.checked.text import ends, foreign_share, items, language, repetition, sentences, words
from lit_rlhf.world.checked.topics import TOPICS, is_about, unseen_topics


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Honey.", 1),
        ("It's a well-known fact!", 4),
        ("They’re 3 to 4 metres long.", 6),
        ("1. Bees make it.\n2. It is sweet.", 6),  # the numbers of a list are no words
        ("- Bees\n- Flowers", 2),
        ("In 1999, 20 bees.", 4),
        ("La miel está aquí.", 4),
    ],
)
def test_words_are_counted_as_people_count_them(text, count):
    assert len(words(text)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("It is sweet.", 1),
        ("It is sweet. Bees make it.", 2),
        ("It is sweet! Is it? Yes...", 3),
        ("It is sweet. Bees make", 2),  # one that does not end is one, too
        ("Dr. Smith likes 3.5 litres, e.g. of tea.", 1),
        ("J. R. Smith came at 5 p.m. sharp.", 1),
        ('He said "Stop." Then he left.', 2),
        ("Bees, ants, etc. make it. Fruit, etc. Then more.", 3),
        ("It is sweet.Bees make it.", 1),  # without a blank nobody can tell a full stop from a dot
        ("Here are two:\n- It is old\n- It is sweet", 3),
        ("甘い。蜂が作る。", 2),
    ],
)
def test_sentences_are_counted_as_people_count_them(text, count):
    assert len(sentences(text)) == count


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Two facts:\n1. One thing.\n2. Another.", [1, 2]),
        ("1) One\n2) Two\n3) Three", [1, 2, 3]),
        ("(1) One\n (2) Two", [1, 2]),
        ("1- One\n2- Two", [1, 2]),
        ("- One\n- Two", [None, None]),
        ("* One\n• Two\n– Three", [None] * 3),
        ("1. One. 2. Two.", [1]),  # a list has a line for each item
        ("-5 degrees\n--\n- ", []),
        ("1999 was a year.\n3.5 litres", []),
    ],
)
def test_items_stand_on_lines_of_their_own(text, numbers):
    assert [item.number for item in items(text)] == numbers


@pytest.mark.parametrize(
    "text", ["It ends.", "Does it?", "Yes!", '"It ends."', "It ends. ", "So…", "**Bold.**", "(Yes.)"]
)
def test_a_mark_ends_a_text(text):
    assert ends(text)


@pytest.mark.parametrize("text", ["", "It is", "It is,", "It is:", "Two:\n1. One", "- One\nand then", "1. One\n2."])
def test_a_text_without_a_mark_does_not_end(text):
    assert not ends(text)


def test_the_last_item_of_a_list_needs_no_mark():
    assert ends("1. Bees\n2. Flowers")
    assert ends("- Bees\n- Flowers\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Bread is good.", "English"),
        ("The moon is a rock that goes around the earth.", "English"),
        ("Los gatos duermen mucho.", "Spanish"),
        ("El sol es una estrella y la luna no lo es.", "Spanish"),
        ("Le pain est un aliment que l'on mange avec du fromage.", "French"),
        ("C'est très bon !", "French"),
        ("Das Brot ist gut und frisch.", "German"),
        ("Die Sonne scheint auf die Erde, und es wird warm.", "German"),
        ("Il pane è molto buono.", "Italian"),
        ("La luna gira in torno alla terra.", "Italian"),
        ("", None),
        ("Pizza!", None),
        ("la la la", None),  # of three languages
        ("O pão é muito bom e os gatos são pretos.", "Portuguese"),
        ("Los volcanoes quick brown fox jumps over lazy dogs without pity seventeen times daily.", None),
    ],
)
def test_languages_are_told_by_their_frequent_words(text, found):
    assert language(text) == found


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Honey", 0.0),
        ("¿Qué? Größe, œuf, naïve 1ª", 0.0),
        ("", 0.0),
        ("123 !", 0.0),
        ("ab гд", 0.5),
        ("蜂蜜", 1.0),
        ("a\ufffd", 0.5),
    ],
)
def test_letters_of_other_scripts_are_counted(text, share):
    assert foreign_share(text) == pytest.approx(share)


def test_emoji_are_no_letters():
    assert foreign_share("I like it 🍯!") == 0.0


def test_repetition_is_that_of_word_pairs():
    assert repetition(list("abcde")) == 0.0
    assert repetition([]) == repetition(["a"]) == 0.0
    assert repetition(["a"] * 11) == pytest.approx(0.9)
    assert repetition(list("ababab")) == pytest.approx(0.6)


@given(st.text(max_size=80))
def test_no_text_is_too_odd_to_be_read(text):
    assert all(words(text))
    assert len(sentences(text)) <= len(text)
    assert isinstance(ends(text), bool)
    assert 0.0 <= foreign_share(text) <= 1.0
    assert 0.0 <= repetition(words(text)) < 1.0
    language(text), items(text)


@given(st.lists(st.sampled_from(["honey", "is", "sweet", "bees", "fly"]), min_size=1, max_size=12))
def test_blanks_and_capitals_change_no_words(said):
    assert words(" ".join(said)) == words("  \n".join(said).upper()) == said


def test_there_are_enough_topics_and_each_knows_its_own_name():
    assert len(TOPICS) >= 60
    assert 8 <= len(unseen_topics()) <= len(TOPICS) / 4
    for topic in TOPICS:
        assert is_about(f"I like {topic}.", topic), topic
        assert not is_about("I have been there and on it, and so can you.", topic), topic


def test_other_words_of_a_topic_will_do_unless_the_request_asked_for_them():
    assert is_about("Bees make it.", "honey")
    assert not is_about("I have been there.", "honey")  # "been" is no bee
    assert is_about("The world has many places.", "maps")
    assert not is_about("All water.", "rain", asked={"water"})
