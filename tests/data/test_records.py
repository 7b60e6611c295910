"""What records are split by."""

from lit_rlhf.data.records import Message, Record


def record(prompt: str, chosen: str | None = None) -> Record:
    return Record((Message("user", prompt),), chosen, None)


def test_records_of_one_prompt_are_split_together():
    assert record("Hello", "a").split_hash == record("Hello", "b").split_hash == record("Hello").prompt_hash
    assert record("Hello", "a").split_hash != record("Bye", "a").split_hash


def test_records_without_a_prompt_are_split_by_their_text():
    assert record("", "a").split_hash != record(" ", "b").split_hash
    assert record("", "a").split_hash == record("", "a").split_hash
    assert record("", "a").prompt_hash == record("", "b").prompt_hash
