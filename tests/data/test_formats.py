import pytest

from lit_rlhf.data import formats
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.formats import FORMATS, common_format, detect_format, get_reader, register_format
from lit_rlhf.data.records import Message, Record

PAIR = {"prompt": "q", "chosen": "x", "rejected": "y"}


@pytest.fixture
def registry(monkeypatch):
    """A registry of its own for a test that adds formats."""
    monkeypatch.setattr(formats, "FORMATS", dict(formats.FORMATS))
    monkeypatch.setattr(formats, "_DETECTORS", dict(formats._DETECTORS))
    return formats


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": "a"},
        {"prompt": None},
        {"prompt": "q", "chosen": "x"},
        {"prompt": "q", "chosen": "x", "rejected": None},
        {"prompt": "q", "response_0": "x", "response_1": "y"},
        {"chosen": "x"},
        {"response": "x"},
        {"info": {}},
    ],
)
def test_a_row_that_lacks_what_a_format_needs_is_taken_for_none(row):
    assert detect_format(row) is None


def test_most_rows_decide_and_the_first_among_equals():
    bare = {"prompt": "q"}
    assert common_format([bare, PAIR, PAIR, {}, {}, {}]) == "explicit"
    assert common_format([bare, PAIR]) == "prompt"
    assert common_format([{}, {"text": "a"}]) is None
    assert common_format([]) is None


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(DataError) as caught:
        get_reader("ultrafeedback")
    assert all(name in str(caught.value) for name in FORMATS)
    assert "Did you mean 'ultrafeedback-binarized'?" in str(caught.value)


def test_a_new_format_is_asked_before_the_others(registry):
    def read(row):
        return Record((Message("user", row["prompt"]),), row["chosen"])

    register_format("mine", read, detect=lambda row: "chosen" in row)
    assert detect_format(PAIR) == "mine"
    assert get_reader("mine") is read
    assert detect_format({"prompt": "q"}) == "prompt"


def test_a_format_without_a_detector_has_to_be_named(registry):
    register_format("explicit", formats.readers.read_prompt)
    assert detect_format(PAIR) is None
    assert get_reader("explicit") is formats.readers.read_prompt


def test_registering_again_replaces(registry):
    register_format("mine", formats.readers.read_prompt, detect=lambda row: True)
    register_format("mine", formats.readers.read_explicit, detect=lambda row: False)
    assert detect_format(PAIR) == "explicit"
    assert get_reader("mine") is formats.readers.read_explicit
