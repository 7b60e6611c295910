"""Well-formed inputs of every reader, from which the fuzzed ones come."""

import json
from typing import Any

_ASKED = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"))]
_GOOD, _BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
_SHORT = _ASKED[0]
_TRANSCRIPT = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"
_STRENGTH = {"chosen score list": [1.0, 2.0], "rejected score list": [0.5, 3], "mean preference difference": -0.25}
_POST = {"post": "a long story ", "title": "A title", "subreddit": "advice", "article": None}
_TLDR = {"summaries": [{"text": " bad "}, {"text": " good"}], "choice": 1}
_SHARE_GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]

ROWS: dict[str, list[dict[str, Any]]] = {
    "prompt": [{"prompt": "q"}, {"prompt": _ASKED}],
    "demonstration": [
        {"prompt": _ASKED, "completion": "good"},
        {"messages": [*_ASKED, _GOOD]},
        {"messages": _SHARE_GPT},
    ],
    "explicit": [
        {"prompt": "q", "chosen": "good", "rejected": "bad", "tie": True},
        {"prompt": _ASKED, "chosen": "good", "rejected": [*_ASKED, _BAD]},
    ],
    "conversational": [{"prompt": _ASKED, "chosen": [_GOOD], "rejected": [*_ASKED, _BAD]}],
    "implicit": [
        {"chosen": [*_ASKED, _GOOD], "rejected": [*_ASKED, _BAD]},
        {"chosen": "The sky is  blue today.", "rejected": "The sky is  black today."},
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
        {
            "prompt": "q",
            "chosen": [_SHORT, _GOOD],
            "rejected": [_SHORT, _BAD],
            "score_chosen": 8,
            "score_rejected": 5.5,
        },
        {"chosen": [*_ASKED, _GOOD], "rejected": [*_ASKED, _BAD], "score_chosen": 5, "score_rejected": 5.0},
    ],
    "safe-rlhf": [{"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1}],
    "tldr": [{"info": _POST, **_TLDR}, {"info": {"article": "news", "post": None}, **_TLDR}],
}
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
    )
]
REPLIES = [b"I am fine.", b"Fine<|im_end|>\n<|im_start|>user\nGo on<eos><user>", " \u00e9 北京 🙂".encode()]
