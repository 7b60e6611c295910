"""Malformed input: every file that a reader must refuse, with the message that it must refuse it with."""

import json
from pathlib import Path

from tests.hostile.bad_files import FILES
from tests.hostile.making import FIRST, GOOD, Bad, cut, first, lines, put, replace, row, store, tokenizer

NO_TOKENIZER, FOLDER = "no tokenizer could be loaded", "Give a Hugging Face directory."
NOT_WRITTEN, TEMPLATE = "chat template: the chat template cannot write", "data.template"
USER, ASSISTANT = ({"role": role, "content": role} for role in ("user", "assistant"))
HUMAN = "\n\nHuman: q\n\nAssistant:"
CHAT = [USER, ASSISTANT]
STRENGTH = {"chosen": ["q", "a"], "rejected": ["q", "b"], "chosen score list": [1.0], "rejected score list": [0.0]}
SAFE = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0}
TWO = {"prompt": "q", "response_a": "a", "response_b": "b"}
LISTED = {"prompt": "q", "responses": ["a", "b"]}
TLDR = {"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}


ROWS = [
    first("unknown", {"question": "q", "good": "a"}, "no known format has the fields of this row: question", "fields."),
    first("escape", {"a\x1b[2Jb": "q"}, r"has the fields of this row: a\x1b[2Jb", "sources.fields.prompt"),
    first("misspelt", {"promt": "q", "chosen": "a", "rejected": "b"}, "no column is known to hold their prompt",
          "fields.prompt promt"),
    first("which", {"query": "q", "problem": "q", "chosen": "a", "rejected": "b"}, "which of these is the prompt",
          "fields.prompt query"),
    first("bare-texts", {"chosen": "a", "rejected": "b"}, "no column is known to hold their prompt",
          "format unprompted"),
    first("number-label", {"prompt": "q", "response": "a", "label": 1}, "'label' is a number", "format marked"),
    row("missing", {"prompt": "q", "chosen": "a"}, "field 'rejected': missing; the row has: prompt, chosen"),
    row("is-null", GOOD | {"chosen": None}, "field 'chosen': is null"),
    row("blank", GOOD | {"rejected": " \n"}, "field 'rejected': empty response"),
    row("kind", GOOD | {"chosen": 7}, "field 'chosen': expected text, found a number"),
    row("prompt-kind", GOOD | {"prompt": {"a": 1}}, "field 'prompt': expected text, found an object"),
    row("surrogate", b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "field 'prompt': half a surrogate pair"),
    row("open", GOOD | {"prompt": [ASSISTANT]}, "field 'prompt': the prompt ends with a turn of the assistant"),
    row("no-turns", GOOD | {"prompt": []}, "field 'prompt': the list of messages is empty"),
    row("role", GOOD | {"prompt": [{"role": "narrator", "content": "x"}]}, "'prompt[0].role': unknown role 'narrator'"),
    row("no-role", GOOD | {"prompt": [{"content": "x"}]}, "'prompt[0]': a message needs role and content"),
    row("message", GOOD | {"prompt": [USER, "q"]}, "'prompt[1]': expected a message {role, content}, found text"),
    row("plain-turns", GOOD | {"prompt": ["q", 7]}, "'prompt[1]': expected text, found a number"),
    row("two-turns", GOOD | {"chosen": [ASSISTANT, ASSISTANT]}, "'chosen': the prompt ends with a turn of the assist"),
    row("picture", GOOD | {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "'prompt[0].content[0]': a part of the kind 'image_url'"),
    row("part", GOOD | {"chosen": [{"role": "assistant", "content": [7]}]}, "'chosen[0].content[0]': expected a part"),
    row("numpy", GOOD | {"prompt": "[{'role': 'user', 'content': 'q'}\n {'role': 'user', 'content': 'r'}]"},
        "'prompt': a list of messages as text, but it is cut off, or has no commas", todo="json.dumps"),
    row("cut-list", GOOD | {"chosen": '[{"role": "assistant", "cont'}, "'chosen': a list of messages as text, but",
        todo="json.dumps"),
    row("spelled-role", GOOD | {"chosen": '[{"role": "narrator", "content": "a"}]'}, "unknown role 'narrator'"),
    row("system", GOOD | {"system": 7}, "field 'system': expected text, found a number"),
    row("tools-text", GOOD | {"tools": "look(at)"}, "field 'tools': expected a list of tools, found a text that is no"),
    row("tools-list", GOOD | {"tools": ["a"]}, "field 'tools': expected a list of tools"),
    row("tools-deep", GOOD | {"tools": [{"name": json.loads("[" * 200 + "]" * 200)}]}, "nested more than 100 levels"),
    row("caller", GOOD | {"prompt": [USER | {"tool_calls": [{"name": "look"}]}]}, "calls of tools in a turn of"),
    row("call", GOOD | {"chosen": [ASSISTANT | {"tool_calls": [{"arguments": {}}]}]}, "needs the name of a function"),
    row("margin", GOOD | {"margin": "wide"}, "field 'margin': expected a number, found the text 'wide'"),
    row("other-format", GOOD | {"prompt": HUMAN}, "looks like format 'hh'", todo="Name the `format`"),
    first("transcript", {"prompt": "q", "chosen": "a", "rejected": "b"}, "field 'prompt': no transcript", format="hh"),
    first("goes-on", {"prompt": HUMAN, "chosen": "a\n\nHuman: c", "rejected": "b"}, "goes on with a further turn"),
    first("apart", {"chosen": f"{HUMAN} a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, "they differ at turn 1"),
    first("user-last", {"chosen": "Human: q", "rejected": "Human: q"}, "'chosen': the last turn is the user's"),
    first("same", {"chosen": "a b", "rejected": "a b"}, "'rejected': the same as 'chosen'", format="implicit"),
    first("odd", STRENGTH | {"chosen": ["q"]}, "'chosen': expected an even number of turns"),
    first("counts", STRENGTH | {"rejected score list": [1, 2]}, "'rejected score list': 2 scores against 1"),
    first("no-scores", STRENGTH | {"chosen score list": []}, "'chosen score list': expected a list of scores"),
    first("huge", STRENGTH | {"chosen score list": [10**400]}, "'chosen score list[0]': expected a finite number"),
    first("third", SAFE | {"better_response_id": 2}, "'better_response_id': expected 0 or 1, found 2"),
    first("truth", SAFE | {"better_response_id": True}, "'better_response_id': expected 0 or 1, found True"),
    first("one-summary", TLDR | {"summaries": [{"text": "a"}]}, "'summaries': expected a list of two summaries"),
    first("no-post", TLDR | {"info": {"title": "t"}}, "'info.post': missing, and so is 'info.article'"),
    first("score", {"chosen": CHAT, "rejected": CHAT, "score_chosen": "x", "score_rejected": 1}, "expected a number"),
    first("nan-score", STRENGTH | {"rejected score list": [float("nan")]}, "expected a finite number, found nan"),
    first("verdict", TWO | {"winner": 1}, "1 does not tell whether 'response_a' or 'response_b' is better",
          "first_wins 1"),
    first("sentence", TWO | {"winner": "B beats A"}, "B beats A does not tell whether", "first_wins 'B beats A'"),
    first("no-verdict", TWO, "nothing tells which is better", "fields.chosen response_a"),
    first("endless", {"prompt": "q", "response_1": "a", "response_2": "b", "overall_preference": float("inf")},
          "inf does not tell whether", "first_wins inf"),
    first("no-grades", LISTED, "'responses' lists responses, but nothing tells which are better", "format ranked"),
    first("few-grades", LISTED | {"scores": [1]}, "'scores': expected one number for each of 2 responses, found"),
    first("text-grades", LISTED | {"scores": [1, "x"]}, "'scores[1]': expected a number, found the text 'x'"),
    first("none-chosen", {"prompt": "q", "chosen": [], "rejected": ["a", "b"]}, "'chosen': the list of responses is"),
    first("steps", {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}, "these are no preferences"),
    first("mark", {"prompt": "q", "response": "a", "label": "x"}, "'label': expected true or false", format="marked"),
    Bad("all a.jsonl", b"{\n{\n", ": ", "not one row can be read; the last one", "Is the format another one?",
        options={"on_bad_row": "skip"}),
]  # fmt: skip

TEXTS = [
    Bad("short a.jsonl", lines({"text": "a b c"}), ":1: ", "expected more than 8 words", "on_bad_row", "texts"),
    Bad("absent a.jsonl", lines({"body": "a"}), ":1: ", "field 'text': missing; the row has: body", FIRST, "texts"),
    Bad("label a.jsonl", lines({"text": "a", "label": 1.5}), ":1: ", "expected a whole number", FIRST, "labelled"),
    Bad("one a.jsonl", lines({"text": "a", "label": 1}), ", field 'label': ", "expected two labels", "Set `positive`",
        "labelled"),
]  # fmt: skip

STORES = [
    Bad("missing store", lambda path: None, ": ", "there is no store", "Run the writing stage", "store"),
    Bad("unfinished store", store(lambda path: (path / "finished.json").unlink()), ": ", "not finished", "Run",
        "store"),
    Bad("gone store", store(lambda path: (path / "part-00000.parquet").unlink()), "/part-00000.parquet: ",
        "cannot be read", "Delete this part", "store"),
    Bad("cut store", store(cut("part-00000.parquet")), "/part-00000.parquet: ", "not the bytes that were written",
        "Delete this part", "store"),
    Bad("key store", store(replace("key.json", "policy", "Policy")), "/key.json: ", "not the bytes", "Delete", "store"),
    Bad("finished store", store(put("finished.json", "{")), "/finished.json: ", "cannot be read", "Is this", "store"),
    Bad("parts store", store(replace("finished.json", '"parts": 1', '"parts": null')), "/finished.json: ",
        "damaged: expected numbers of parts and rows", "Delete the folder", "store"),
    Bad("rows store", store(replace("finished.json", '"rows": 1', '"rows": 2')), ": ", "has 1 rows, 2 were written",
        "Delete the folder", "store"),
    Bad("more store", store(replace("finished.json", '"parts": 1', '"parts": 2')), "/part-00001.parquet: ",
        "cannot be read", "Delete this part", "store"),
    Bad("other table", store(lambda path: None, {"prompt": "p"}), ":row 1: ", "field 'pair_hash': missing; the row has",
        "Is this the folder of a strength table?", "strength"),
    Bad("text table", store(lambda path: None, {"pair_hash": "x", "differences": ["a"]}), ":row 1: ",
        "field 'differences[0]': expected a number, found text", "strength table?", "strength"),
    Bad("nan table", store(lambda path: None, {"pair_hash": "x", "differences": [float("nan")]}), ":row 1: ",
        "expected a finite number, found nan", "strength table?", "strength"),
    Bad("none table", store(lambda path: None, {"pair_hash": "x", "differences": []}), ":row 1: ",
        "expected a list of numbers, found a list", "strength table?", "strength"),
]  # fmt: skip

REMOTE = '{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}, "tokenizer_class": "Evil"}'
TOKENIZERS = [
    Bad("bare model", lambda path: path.mkdir(), ": ", "this folder holds no model", FOLDER, "tokenizer"),
    Bad("cut model", tokenizer(cut("tokenizer.json")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("list model", tokenizer(put("tokenizer_config.json", "[]")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("empty model", tokenizer(put("tokenizer.json", "{}")), ": ", NO_TOKENIZER, FOLDER, "tokenizer"),
    Bad("no-end model", tokenizer(lambda path: _without_end(path)), "", "tokenizer: has no end-of-sequence token",
        "Give one", "tokenizer"),
    Bad("remote model", tokenizer(put("tokenizer_config.json", REMOTE)), ": ", NO_TOKENIZER,
        "Take a tokenizer that transformers knows", "tokenizer"),
    Bad("syntax t.jinja", b"{% for m in messages %}{{ m.content }}", "", NOT_WRITTEN,
        TEMPLATE, "template"),
    Bad("refuses t.jinja", b"{{ raise_exception('no system turn') }}", "", "conversation of user: no system turn",
        TEMPLATE, "template"),
    Bad("sandbox t.jinja", b"{{ messages.__class__.__mro__[1].__subclasses__() }}", "", "is unsafe",
        TEMPLATE, "template"),
    Bad("undefined t.jinja", b"{{ messages[7].content.x }}", "", NOT_WRITTEN,
        TEMPLATE, "template"),
    Bad("range t.jinja", b"{% for i in range(10**9) %}x{% endfor %}", "", "Range too big", TEMPLATE, "template"),
]  # fmt: skip


def _without_end(path: Path) -> None:
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    config["eos_token"] = None
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (path / "special_tokens_map.json").unlink(missing_ok=True)


CORPUS = [*FILES, *ROWS, *TEXTS, *STORES, *TOKENIZERS]
