import json
import re
import threading

import pytest

from lit_rlhf.cli.commands import _parser
from lit_rlhf.data.endpoint import Endpoint
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.records import Message
from lit_rlhf.evaluation import LLMJudge
from lit_rlhf.evaluation.compare import compare
from lit_rlhf.evaluation.judges import Pair, Verdict


def pair(first: str, second: str, prompt: str = "Hi") -> Pair:
    return Pair((Message("user", prompt),), first, second)


def longer(prompt: str, a: str, b: str) -> str:
    return "A" if len(a) > len(b) else "B" if len(b) > len(a) else "C"


class Model:
    """A chat completion server whose model decides by ``rule(prompt, a, b)``, and which remembers what it was asked."""

    def __init__(self, serve, rule=longer) -> None:
        self.rule, self.questions, self.lock = rule, [], threading.Lock()
        self.broken = 0
        self.url = serve(self.answer)

    def answer(self, path: str, question: dict, headers: dict):
        with self.lock:
            self.questions.append((path, question))
            if self.broken and len(self.questions) >= self.broken:
                return 400, "no more"
        texts = re.findall(r"\n\[begin \w+\]\n(.*?)\n\[end \w+\]\n", question["messages"][0]["content"], re.DOTALL)
        return 200, {"choices": [{"message": {"role": "assistant", "content": self.rule(*texts)}}]}

    def judge(self, **options) -> LLMJudge:
        concurrency = options.pop("concurrency", 4)
        endpoint = Endpoint(self.url, timeout=5.0, retries=1, wait=0.0, concurrency=concurrency)
        return LLMJudge(endpoint, "tiny", **options)


def test_both_orders_are_asked_and_have_to_agree(serve, tmp_path):
    model = Model(serve)
    verdicts = model.judge().judge([pair("long answer", "short"), pair("a", "bb"), pair("ab", "cd")], tmp_path)
    assert verdicts == [
        Verdict(1, 2, False, 0, (1, 1)),
        Verdict(-1, 2, False, 0, (1, 1)),
        Verdict(0, 2, False, 0, (0, 0)),
    ]
    assert len(model.questions) == 6


def test_a_judge_that_always_picks_the_first_decides_nothing_and_is_found_out(serve, tmp_path):
    verdicts = Model(serve, lambda *texts: "A").judge().judge([pair("x", "y"), pair("yy", "x")], tmp_path)
    assert verdicts == [Verdict(0, 2, True, 0, (2, 0))] * 2


def test_a_preference_in_one_order_and_a_tie_in_the_other_is_a_tie_that_depends_on_the_order(serve, tmp_path):
    model = Model(serve, lambda prompt, a, b: "A" if a == "x" else "C")
    assert model.judge().judge([pair("x", "y")], tmp_path) == [Verdict(0, 2, True, 0, (1, 0))]


def test_what_cannot_be_read_is_a_tie_and_counted(serve, tmp_path):
    rule = {("x", "y"): "A", ("y", "x"): "Hard to say.", ("p", "q"): "no", ("q", "p"): None}
    model = Model(serve, lambda prompt, a, b: rule[a, b])
    verdicts = model.judge().judge([pair("x", "y"), pair("y", "x"), pair("p", "q")], tmp_path)
    assert verdicts == [Verdict(0, 2, False, 1, (1, 0))] * 2 + [Verdict(0, 2, False, 2, (0, 0))]


def test_if_nothing_at_all_can_be_read_the_user_is_told(serve, tmp_path):
    with pytest.raises(DataError, match=r"(?s)LLMJudge\(tiny\): no answer says A, B or C.*What a day!.*judgements"):
        Model(serve, lambda *texts: "What a day!").judge().judge([pair("x", "y")], tmp_path)


def test_equal_responses_tie_unasked_and_equal_pairs_are_asked_once(serve, tmp_path):
    model = Model(serve)
    pairs = [pair("x", "x"), pair("xx", "y"), pair("xx", "y"), pair("y", "xx")]
    outcomes = [verdict.outcome for verdict in model.judge().judge(pairs, tmp_path)]
    assert outcomes == [0, 1, 1, -1]
    assert len(model.questions) == 2


def test_the_request_is_a_plain_chat_completion_with_the_users_fields(serve, tmp_path):
    model = Model(serve)
    model.judge().judge([pair("xx", "y")], tmp_path)
    path, question = model.questions[0]
    assert path == "/v1/chat/completions"
    assert {name: question[name] for name in question if name != "messages"} == {
        "model": "tiny",
        "temperature": 0.0,
        "max_tokens": 512,
    }
    model.judge(request={"temperature": None, "max_tokens": 9, "seed": 1}).judge([pair("xx", "y")], tmp_path)
    assert model.questions[-1][1].keys() == {"model", "messages", "max_tokens", "seed"}


def test_an_interrupted_judgement_goes_on_without_asking_twice(serve, tmp_path):
    model = Model(serve)
    pairs = [pair("x" * n, "y" * 3, f"prompt {n}") for n in range(1, 9)]
    model.broken = 6
    with pytest.raises(DataError, match="status 400"):
        model.judge(concurrency=1).judge(pairs, tmp_path)
    answered = [question["messages"][0]["content"] for _, question in model.questions[:5]]
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == answered
    model.broken, model.questions = 0, []
    verdicts = model.judge().judge(pairs, tmp_path)
    assert [verdict.outcome for verdict in verdicts] == [-1, -1, 0, 1, 1, 1, 1, 1]
    assert len(model.questions) == 16 - 5
    assert not {question["messages"][0]["content"] for _, question in model.questions} & set(answered)
    model.questions = []
    assert model.judge().judge(pairs, tmp_path) == verdicts
    assert model.questions == []


def test_answers_that_arrive_while_another_one_fails_are_kept(serve, tmp_path):
    slow = threading.Event()

    def rule(prompt, a, b):
        slow.wait(5.0)
        return longer(prompt, a, b)

    model = Model(serve, rule)
    model.broken = 3
    threading.Timer(0.3, slow.set).start()
    with pytest.raises(DataError, match="status 400"):
        model.judge(concurrency=3).judge([pair("xx", "y"), pair("yy", "x")], tmp_path)
    assert len((tmp_path / "judgements.jsonl").read_text().splitlines()) == 2


def test_a_line_that_was_cut_off_is_asked_again_and_spoils_no_other(serve, tmp_path):
    model, file = Model(serve), tmp_path / "judgements.jsonl"
    model.judge().judge([pair("xx", "y")], tmp_path)
    file.write_text(file.read_text()[:-20])
    for asked in (1, 0):
        model.questions = []
        assert model.judge().judge([pair("xx", "y")], tmp_path)[0].outcome == 1
        assert len(model.questions) == asked


@pytest.mark.parametrize(
    "other",
    [
        lambda model: (model.judge(template="{prompt}{answer_a}{answer_b}\n"), pair("xx", "y")),
        lambda model: (model.judge(request={"max_tokens": 3}), pair("xx", "y")),
        lambda model: (LLMJudge(Endpoint(model.url), "large"), pair("xx", "y")),
        lambda model: (model.judge(), pair("xx", "y", "Hello")),
        lambda model: (model.judge(), pair("xx", "z")),
    ],
    ids=["template", "request", "model", "prompt", "response"],
)
def test_answers_to_other_questions_are_not_taken(serve, tmp_path, other):
    model = Model(serve, lambda *texts: "A")
    model.judge().judge([pair("xx", "y")], tmp_path)
    model.questions = []
    judge, asked = other(model)
    judge.judge([asked], tmp_path)
    assert len(model.questions) == 2


def test_a_server_of_another_kind_is_named(serve, tmp_path):
    url = serve(lambda path, question, headers: (200, {"text": "A"}))
    with pytest.raises(DataError, match=r"(?s)/v1/chat/completions: no chat completion.*OpenAI-compatible"):
        LLMJudge(Endpoint(url), "tiny").judge([pair("x", "y")], tmp_path)


def test_a_template_without_the_texts_is_refused():
    with pytest.raises(DataError, match=r"lacks \{answer_a\} and \{answer_b\}"):
        LLMJudge(Endpoint("http://localhost:1"), "tiny", template="Which one answers {prompt}?")


def test_a_config_names_the_judge_and_its_server(tmp_path):
    judge = {"endpoint": {"url": "http://localhost:8000", "retries": 2}, "model": "tiny", "request": {"max_tokens": 8}}
    source = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 1}}
    data = {"class_path": "lit_rlhf.data.datamodule.PreferenceDataModule", "init_args": {"sources": source}}
    referee = {"class_path": "lit_rlhf.evaluation.LLMJudge", "init_args": judge}
    config = tmp_path / "compare.yaml"
    config.write_text(json.dumps({"policies": {"sft": "x"}, "data": data, "out": "y", "referee": referee}))
    parser = _parser(compare, "compare")
    found = parser.instantiate(parser.parse_args(["-c", str(config)])).referee
    assert isinstance(found, LLMJudge)
    assert (found.endpoint.url, found.endpoint.retries) == ("http://localhost:8000", 2)
    assert found.request == {"temperature": 0.0, "max_tokens": 8}
