import json

import pytest

from lit_rlhf.cli import commands
from tests.data.tokenizers import byte_level

PAIR = {
    "system": "Be brief.",
    "question": "Which metal?",
    "chosen": "Tin.",
    "rejected": "Wood.",
    "id": 7,
    "source": "x",
}


@pytest.fixture
def write(tmp_path):
    def to_file(*rows, name="pairs.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return to_file


def test_the_report_says_what_a_file_was_read_as(write, tmp_path, capsys):
    rows = [PAIR | {"score_chosen": n, "score_rejected": 3, "question": f"Which metal {n}?"} for n in range(5)]
    path, out = write(*rows), tmp_path / "report.json"
    assert commands.dispatch(["inspect", path, "--out", str(out)]) == 0
    (source,) = json.loads(out.read_text())["sources"]
    assert (source["path"], source["format"], source["rows"]) == (path, "explicit", 5)
    assert source["used"] == ["system", "question", "chosen", "rejected", "id", "score_chosen", "score_rejected"]
    assert source["left_aside"] == ["source"]
    assert source["warnings"][0] == "3 of 5 rows: the chosen response has a lower score than the rejected one"
    first = source["records"][0]
    assert len(source["records"]) == 3
    assert first["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which metal 0?"},
    ]
    assert (first["chosen"], first["rejected"], first["margin"], first["tie"]) == ("Tin.", "Wood.", -3.0, False)
    assert first["responses"] is first["grades"] is None
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("format explicit", "left aside: source", "chosen: Tin.", "note: 3 of 5 rows"))


def test_with_a_tokenizer_it_shows_text_and_tokens(write, tmp_path, capsys):
    byte_level().save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "report.json"
    command = ["inspect", write(PAIR), "--tokenizer", str(tmp_path / "tokenizer"), "--template", "dialogue"]
    assert commands.dispatch([*command, "--out", str(out)]) == 0
    (seen,) = json.loads(out.read_text())["sources"][0]["seen"]
    assert seen["prompt"]["text"].endswith("Human: Which metal?\n\nAssistant:")
    assert seen["chosen"]["text"].strip().startswith("Tin.")
    assert all(len(part["tokens"]) == len(part["ids"]) for part in seen.values())
    assert "as tokens" in capsys.readouterr().out


def test_a_refused_file_ends_with_status_2_and_the_others_are_shown(write, tmp_path, capsys):
    bad, good = write({"a": 1}, name="bad.jsonl"), write(PAIR)
    out = tmp_path / "report.json"
    assert commands.dispatch(["inspect", bad, good, str(tmp_path / "missing.jsonl"), "--out", str(out)]) == 2
    sources = json.loads(out.read_text())["sources"]
    assert ["error" in source for source in sources] == [True, False, True]
    said = capsys.readouterr()
    assert "no known format has the fields of this row: a" in said.err
    assert "not found" in said.err
    assert "format explicit" in said.out


def test_a_hint_names_the_options_of_this_command_and_works(write, tmp_path, capsys):
    path, out = write({"prompt": "Which?", "responses": ["Tin.", "Wood."]}), tmp_path / "report.json"
    assert commands.dispatch(["inspect", path, "--out", str(out)]) == 2
    (source,) = json.loads(out.read_text())["sources"]
    assert source["format"] is source["records"] is None
    hint = next(line for line in capsys.readouterr().err.splitlines() if "best to worst" in line)
    words = hint.partition(": ")[2].split()
    assert words == ["--format", "ranked"]
    assert commands.dispatch(["inspect", path, *words]) == 0


def test_what_a_template_cannot_write_is_told_with_the_file_and_the_records_stay(write, tmp_path, capsys):
    byte_level().save_pretrained(tmp_path / "tokenizer")
    tools = [{"type": "function", "function": {"name": "look"}}]
    path, out = write(PAIR | {"tools": tools}), tmp_path / "report.json"
    command = ["inspect", path, "--tokenizer", str(tmp_path / "tokenizer"), "--template", "dialogue"]
    assert commands.dispatch([*command, "--out", str(out)]) == 2
    (source,) = json.loads(out.read_text())["sources"]
    assert source["format"] == "explicit"
    assert source["records"][0]["chosen"] == "Tin."
    said = capsys.readouterr().err
    assert path in source["error"]
    assert "--template" in said


def test_further_options_of_a_source(write, tmp_path):
    out = tmp_path / "report.json"
    both = {"prompt": "Which?", "response_0": "Tin.", "response_1": "Wood.", "safer_response_id": 1}
    assert commands.dispatch(["inspect", write(both)]) == 2
    assert commands.dispatch(["inspect", write(both), "--label", "safer", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["sources"][0]["records"][0]["chosen"] == "Wood."
    graded = {"prompt": "Which?", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}
    assert commands.dispatch(["inspect", write(graded), "--pairs", "all", "--out", str(out)]) == 0
    bad = write(PAIR, {"prompt": "Which?"}, PAIR | {"chosen": 3})
    assert commands.dispatch(["inspect", bad]) == 2
    assert commands.dispatch(["inspect", bad, "--on_bad_row", "skip"]) == 0


def test_options_of_the_source_help_here_too(write, tmp_path):
    path, out = write({"a": "Which?", "b": "Tin.", "c": "Wood."}), tmp_path / "report.json"
    fields = ["--fields", '{"prompt": "a", "chosen": "b", "rejected": "c"}']
    assert commands.dispatch(["inspect", path, "--out", str(out), *fields]) == 0
    source = json.loads(out.read_text())["sources"][0]
    assert source["used"] == ["a", "b", "c"]
    assert commands.dispatch(["inspect", path, "--format", "nonsense"]) == 1


def test_grades_and_ties_are_shown(write, tmp_path):
    rows = [{"prompt": "Which?", "responses": ["a", "b", "c"], "scores": scores} for scores in ([1, 3, 2], [2, 2, 2])]
    out = tmp_path / "report.json"
    assert commands.dispatch(["inspect", write(*rows), "--out", str(out)]) == 0
    first, second = json.loads(out.read_text())["sources"][0]["records"]
    assert (first["chosen"], first["rejected"], first["margin"], first["tie"]) == ("b", "a", 2.0, False)
    assert (first["responses"], first["grades"]) == (["a", "b", "c"], [1.0, 3.0, 2.0])
    assert second["tie"]
