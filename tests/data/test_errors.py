from lit_rlhf.data.errors import DataError, excerpt


def test_a_message_says_where_what_and_what_to_do():
    assert str(DataError("is null", "a.jsonl:3", "Mend it.")) == "a.jsonl:3: is null\n  Mend it."
    assert str(DataError("is null")) == "is null"


def test_a_message_holds_nothing_that_a_terminal_obeys_or_cannot_write():
    text = str(DataError("the row has: \x1b[2J\x07\r, \ud800, \u202e", "é/北京.jsonl"))
    assert text == r"é/北京.jsonl: the row has: \x1b[2J\x07\r, \ud800, \u202e"
    assert str(DataError(text)) == text
    text.encode("utf-8")


def test_an_excerpt_is_one_short_line():
    assert excerpt("two\nlines") == r"two\nlines"
    assert excerpt("x" * 41, 40) == "x" * 40 + "…"
    assert excerpt("x" * 40, 40) == "x" * 40
