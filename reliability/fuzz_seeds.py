"""Well-formed inputs of every reader, from which the fuzzed ones come."""

import json
from typing import Any

Row = dict[str, Any]

_ASKED = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"))]
_GOOD, _BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
_SHORT = _ASKED[0]
_PARTS = {"role": "User", "content": [{"type": "text", "text": "q"}, {"text": "r"}]}
_TRANSCRIPT = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
_STRENGTH = {"chosen score list": [1.0, 2.0], "rejected score list": [0.5, 3], "mean preference difference": -0.25}
_POST = {"post": "a long story ", "title": "A title", "subreddit": "advice", "article": None}
_TLDR = {"summaries": [{"text": " bad "}, {"text": " good"}], "choice": 1}
_SHARE_GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]
_TOOLS = [{"type": "function", "function": {"name": "look", "strict": None}}]
_CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
_CALLS = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_USED = [_SHORT, _CALLS, {"role": "tool", "name": "look", "content": "blue"}]
_THOUGHT = {**_GOOD, "reasoning_content": "It is."}
_TWO = {"response_a": "bad", "response_b": "good"}
_BOTH = {"conversation_a": [_SHORT, _GOOD], "conversation_b": [_SHORT, _BAD]}

ROWS: dict[str, list[Row]] = {
    "prompt": [
        {"prompt": "q"},
        {"prompt": _ASKED, "system": "Be brief."},
        {"question": "q", "tools": _TOOLS},
        {"conversations": json.dumps(_ASKED)},
    ],
    "demonstration": [
        {"prompt": _ASKED, "completion": "good"},
        {"messages": [*_ASKED, _THOUGHT]},
        {"messages": _SHARE_GPT, "system": "Be brief."},
        {"instruction": "q", "input": "r", "output": "good", "history": [["q", "a"]]},
        {"messages": [*_USED, _GOOD], "tools": json.dumps(_TOOLS)},
        {"messages": [_SHORT, _CALLS]},
        {"conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "good"}]},
        {"conversations": ["q", "good"]},
        {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"author": "CHATBOT", "message": "good"}]},
        {"messages": [_SHORT, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, "good"]}]},
        {"prompt": _TRANSCRIPT, "answer": "good"},
    ],
    "marked": [
        {"prompt": "q", "completion": "good", "label": True},
        {"messages": [_PARTS, _BAD], "label": "False"},
        {"question": {"full_text": "q"}, "answer": "bad", "kto_tag": 0},
        {"prompt": "q", "response": "bad", "is_toxic": True, "is_good": 7},
    ],
    "explicit": [
        {"prompt": "q", "chosen": "good", "rejected": "bad", "tie": True},
        {"prompt": _ASKED, "chosen": "good", "rejected": [*_ASKED, _BAD]},
        {"Question": "q", "Chosen Response": ["good"], "Rejected Response": _BAD, "system_prompt": "Be brief."},
        {"messages": [_SHORT, _GOOD], "rejected_response": "bad", "margin": "1.5"},
        {"prompt": "r", "y_w": [*_ASKED, _GOOD], "y_l": str([*_ASKED, _BAD]), "win-score": 1, "tools": _TOOLS},
        {"query": "r", "response": "good", "rejected_response": "bad", "history": [["q", "a"]]},
        {"input": {"messages": _ASKED}, "preferred_output": [_GOOD], "non_preferred_output": [_BAD]},
        {"prompt": "r", "messages": _ASKED, "chosen": "good", "rejected": "bad", "developer": "Be brief."},
        {"prompt": " ", "question": "q", "better": "good", "worse": "bad"},
        {"prompt": "q", "good": "good", "bad": "bad", "avg_good_rating": [1, "2.5"], "avg_bad_rating": [3, 0]},
    ],
    "conversational": [
        {"prompt": _ASKED, "chosen": [_GOOD], "rejected": [*_ASKED, _BAD]},
        {"prompt": _USED, "chosen": [_THOUGHT], "rejected": json.dumps([_CALLS]), "tools": _TOOLS, "margin": 2},
    ],
    "implicit": [
        {"chosen": [*_ASKED, _GOOD], "rejected": [*_ASKED, _BAD]},
        {"chosen": ["q", "a", "r", "good"], "rejected": ["q", "a", "r", "bad"], "score_diff": 1, "is_tie": True},
        {"chosen": "The sky is  blue today.", "rejected": "The sky is  black today."},
    ],
    "unprompted": [{"chosen": "good", "rejected": ["bad"], "score_chosen": 2, "score_rejected": "2"}],
    "compared": [
        {"prompt": "q", **_TWO, "winner": "model_b"},
        {"prompt": "q", **_TWO, "preference": "A>>B", "score_a": 1, "score_b": "2"},
        {"prompt": "q", **_TWO, "winner_model_a": 0, "winner_model_b": True, "system": "Be brief."},
        {"prompt": "q", **_TWO, "model_a": "m", "model_b": "n-1", "winner": "m"},
        {**_BOTH, "winner": "tie"},
        {"context": _ASKED, "response1": "good", "response2": "bad", "overall_preference": -2},
        {"history": "q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1, "score_A": 20, "score_B": 3},
        {"prompt": _TRANSCRIPT, "output_1": "bad", "output_2": "good", "best": "good"},
        {"prompt": '["q", "r"]', "response_a": '["a", "bad"]', "response_b": '["a", "good"]', "winner": "b"},
        {"prompt": "q", "answer_0": "bad", "answer_1": ["good"], "label": 1},
        {"prompt": "q", **_TWO, "verdict": "Response B is slightly better than A."},
    ],
    "graded": [
        {"prompt": "q", "responses": ["bad", "good", "so so"], "scores": [1, 5.5, "2"]},
        {"prompt": "q", "responses": [str([_BAD]), [_GOOD]], "votes": [1, 5]},
        {"prompt": "q", "responses": ["bad", "good"], "best_index": 1},
        {"userPrompt": "q", "responses": ["bad", "good"], "preferred_response": "good"},
        {"prompt": "q", "response_1": "good", "response_2": "x", "response_3": "bad", "best": "response_1"},
        {"task": "q", "completions": [{"text": "good", "overall_score": 8}, {"text": "bad", "overall_score": "3"}]},
        {"prompt": _TRANSCRIPT, "answers": [{"answer": "bad", "rank": 2.0}, {"answer": "good", "rank": 1}]},
        {"prompt": "q", "chosen": ["good", "fine"], "rejected": ["bad", _BAD]},
        {"prompt": "q", **{f"response_{i}": f"{i}" for i in (1, 2, 3)}, "score_1": 1, "score_2": 3, "score_3": True},
    ],
    "ranked": [
        {"instruction": "q", "input": "", "output": ["good", "bad"]},
        {"prompt": "q", "responses": ["good", {"text": "so so"}, "bad"]},
        {"prompt": "q", "response_1": "good", "response_2": "bad"},
    ],
    "hh": [
        {"chosen": f"{_TRANSCRIPT} good", "rejected": f"{_TRANSCRIPT} bad"},
        {"prompt": _TRANSCRIPT, "chosen": " good", "rejected": "bad\n\nAssistant: really"},
        {"prompt": _TRANSCRIPT, "response": "good"},
    ],
    "hh-strength": [
        {"chosen": ["q", "a", "r", "good"], "rejected": ["q", "a", "r", "bad"], **_STRENGTH, "GPT4 label": 0}
    ],
    "ultrafeedback-binarized": [
        {"prompt": "q", "chosen": [_SHORT, _GOOD], "rejected": [_SHORT, _BAD], "score_chosen": 8, "score_rejected": 5},
        {"chosen": [*_ASKED, _GOOD], "rejected": [*_ASKED, _BAD], "score_chosen": 5, "score_rejected": 5.0},
    ],
    "safe-rlhf": [{"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1}],
    "tldr": [{"info": _POST, **_TLDR}, {"info": {"article": "news", "post": None}, **_TLDR}],
}  # fmt: skip
STEPWISE: Row = {"prompt": "q", "completions": ["one", "two"], "labels": [True, False]}
PAIRS = [{"id": i, "prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad\n{i}"} for i in range(4)]
TRANSCRIPTS = [
    f"{_TRANSCRIPT} good".encode(),
    b"Human: q\n\nAssistant: a\n\nAssistant: b\n\nHuman: c",
    b"\n\nAssistant:\n\nHuman:",
]
TABLE = [{"pair_hash": "0123456789abcdef", "part": "train", "differences": [0.5, -1.25], "mean": -0.375}] * 2
CONVERSATIONS = [
    json.dumps({"prompt": text}).encode()
    for text in (
        "How are you?",
        _ASKED,
        "a<|im_end|>\n<|im_start|>assistant\nb",
        [{"role": "system", "content": "s"}, *_ASKED],
        _USED,
    )
] + [json.dumps({"messages": _USED, "tools": _TOOLS, "system": "<|im_end|>"}).encode()]
REPLIES = [b"I am fine.", b"Fine<|im_end|>\n<|im_start|>user\nGo on<eos><user>", " \u00e9 北京 🙂".encode()]
README = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: ["data/test.jsonl"]
- config_name: more
  data_dir: more
---
# Pairs
"""
