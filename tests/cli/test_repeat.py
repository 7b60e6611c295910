"""Groups of stages that repeat: what they are written out to, and what is made anew when they grow."""

import pytest

from lit_rlhf.cli.experiment import run_experiment
from lit_rlhf.cli.repeat import Repeat, substituted, unrolled
from lit_rlhf.data.errors import DataError

GROUP = (
    "{repeat: {times: '${rounds}', as: round, start: {arm: meta, policy: '${run}/sft', reward: '${run}/rm'}, "
    "next: {policy: '${run}/${arm}_${round}_ppo', reward: '${run}/${arm}_${round}_rm'}}, "
    "stages: [{name: '${arm}_${round}_ppo', command: fit, options: {policy: '${policy}', reward: '${reward}'}}, "
    "{name: '${arm}_${round}_rm', command: fit, options: {samples: '${run}/${arm}_${round}_ppo'}}]}"
)
PLAIN = (
    "{repeat: {times: '${plain}', as: round, start: {arm: plain, policy: '${run}/sft'}, "
    "next: {policy: '${run}/${arm}_${round}_ppo'}}, "
    "stages: [{name: '${arm}_${round}_ppo', command: fit, options: {policy: '${policy}', n: '${round}'}}]}"
)
REPORT = (
    "{name: report, command: compare, options: {policies: {sft: '${run}/sft', '${arm}_${round}': '${next_policy}'}}}"
)
FIRST = ("{name: sft, command: world}", "{name: rm, command: world, options: {from: '${run}/sft'}}")


@pytest.fixture
def run(write_experiment, tmp_path):
    """Run two arms of some rounds each."""
    file = write_experiment(tmp_path / "x.yaml", *FIRST, GROUP, PLAIN, REPORT, variables={"rounds": 2, "plain": 0})
    return lambda **given: run_experiment(file, out=str(tmp_path / "run"), **given)


def test_each_round_names_the_one_before():
    repeat = Repeat(3, "i", {"model": "start", "kept": 7}, {"model": "made_${i}_of_${model}"})
    first, second, third = repeat.rounds()
    assert first == {"i": 1, "model": "start", "kept": 7, "next_model": "made_1_of_start", "next_kept": 7}
    assert (second["i"], second["model"]) == (2, "made_1_of_start")
    assert third["model"] == "made_2_of_made_1_of_start" == second["next_model"]


def test_a_group_is_written_out_and_the_stages_behind_it_name_all_rounds():
    specs = [
        {"name": "before", "text": "${later}"},
        {
            "repeat": {"times": "${n}", "as": "i", "start": {"arm": "a", "x": "s"}, "next": {"x": "${arm}${i}"}},
            "stages": [{"name": "t_${i}", "value": "${x}", "number": "${i}", "word": "no ${i}", "other": "${run}/y"}],
        },
        {"repeat": {"times": 1, "as": "i", "start": {"arm": "b", "x": "z"}}, "stages": [{"name": "u_${i}"}]},
        {
            "name": "last",
            "options": {"all": {"fixed": 1, "${arm}${i}": "${x}"}, "list": [0, {"i": ["${i}", "${next_x}"]}]},
        },
    ]
    found = unrolled(specs, {"n": 2}, "file")
    rest = {"other": "${run}/y"}
    assert found[:4] == [
        {"name": "before", "text": "${later}"},
        {"name": "t_1", "value": "s", "number": 1, "word": "no 1", **rest},
        {"name": "t_2", "value": "a1", "number": 2, "word": "no 2", **rest},
        {"name": "u_1"},
    ]
    rounds = [{"i": [1, "a1"]}, {"i": [2, "a2"]}, {"i": [1, "z"]}]
    assert found[4]["options"] == {"all": {"fixed": 1, "a1": "s", "a2": "a1", "b1": "z"}, "list": [0, *rounds]}
    assert list(found[4]["options"]["all"]) == ["fixed", "a1", "a2", "b1"]
    assert [stage["name"] for stage in unrolled(specs, {"n": 0}, "file")] == ["before", "u_1", "last"]


def test_names_of_entries_are_filled_in_as_well():
    names = {"a": 1, "b": [2]}
    assert substituted({"${a}x": ["${b}", "${a} ${c}"], 3: "${a}"}, names) == {"1x": [[2], "1 ${c}"], 3: 1}


def test_more_rounds_keep_those_that_are_done(run, ran):
    run(variables={"rounds": 1})
    assert ran == ["sft", "rm", "meta_1_ppo", "meta_1_rm", "report"]
    ran.clear()
    run()
    assert ran == ["meta_2_ppo", "meta_2_rm", "report"]
    ran.clear()
    run(variables={"plain": 2})
    assert ran == ["plain_1_ppo", "plain_2_ppo", "report"]
    ran.clear()
    run(variables={"plain": 2})
    assert ran == []


def test_a_changed_round_remakes_those_that_follow_it(run, ran, tmp_path, write_experiment):
    run(variables={"plain": 2})
    ran.clear()
    changed = GROUP.replace("samples:", "others:")
    file = write_experiment(tmp_path / "y.yaml", *FIRST, changed, PLAIN, REPORT, variables={"rounds": 2, "plain": 2})
    run_experiment(file, out=str(tmp_path / "run"))
    assert ran == ["meta_1_rm", "meta_2_ppo", "meta_2_rm", "report"]  # not round 1's PPO, nor the other arm


def test_a_moved_run_is_still_known(run, ran, tmp_path, write_experiment):
    run()
    ran.clear()
    (tmp_path / "run").rename(tmp_path / "moved")
    file = str(tmp_path / "x.yaml")
    run_experiment(file, out=str(tmp_path / "moved"))
    assert ran == []


def test_commands_of_different_rounds_have_names_of_their_own(monkeypatch, write_experiment, tmp_path):
    called = []
    monkeypatch.setattr(
        "lit_rlhf.cli.experiment.call", lambda *args, **rest: called.append((*args, rest["name"])) or {}
    )
    group = "{repeat: {times: 2, as: i}, stages: [{name: 'judged_${i}', command: compare}]}"
    run_experiment(write_experiment(tmp_path / "x.yaml", group), out=str(tmp_path / "run"))
    assert called == [("compare", "judged_1"), ("compare", "judged_2")]


def test_single_stages_of_rounds_can_be_looked_at(run, ran):
    run(only="meta_1_rm,meta_2_ppo")
    assert ran == ["meta_1_rm", "meta_2_ppo"]
    with pytest.raises(DataError, match=r"no stage 'meta_3_ppo'[\s\S]*meta_1_ppo, meta_1_rm, meta_2_ppo"):
        run(only="meta_3_ppo")


def test_a_variable_may_stand_for_another(write_experiment, tmp_path, ran):
    variables = {"rounds": 1, "plain": "${rounds}"}
    file = write_experiment(tmp_path / "x.yaml", *FIRST, GROUP, PLAIN, variables=variables)
    run_experiment(file, out=str(tmp_path / "run"), variables={"rounds": 2})
    assert ran[-2:] == ["plain_1_ppo", "plain_2_ppo"]


STAGES = "stages: [{name: a, command: world}]"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (f"{{repeat: 3, {STAGES}}}", "needs times, as and stages"),
        (f"{{repeat: {{times: 3}}, {STAGES}}}", "needs times, as and stages"),
        ("{repeat: {times: 3, as: round}}", "needs times, as and stages"),
        (f"{{repeat: {{times: -1, as: round}}, {STAGES}}}", "times of a repeated group is -1"),
        (f"{{repeat: {{times: yes, as: round}}, {STAGES}}}", "times of a repeated group is True"),
        (f"{{repeat: {{times: '${{much}}', as: round}}, {STAGES}}}", "much"),
        (f"{{repeat: {{times: 1, as: round, begin: {{}}}}, {STAGES}}}", "no option 'begin'"),
        (f"{{repeat: {{times: 1, as: round}}, options: {{}}, {STAGES}}}", "no option 'options'"),
        (f"{{repeat: {{times: 1, as: known}}, {STAGES}}}", "calls something 'known'"),
        (f"{{repeat: {{times: 1, as: round, start: {{seed: 3}}}}, {STAGES}}}", "calls something 'seed'"),
        (f"{{repeat: {{times: 1, as: round, next: {{x: 3}}}}, {STAGES}}}", "next names 'x', its start does not"),
        (f"{{repeat: {{times: 2, as: round}}, {STAGES}}}", "two stages are called 'a'"),
        ("{repeat: {times: 1, as: round}, stages: [{name: '${round}/a', command: world}]}", "cannot be called '1/a'"),
        ("{repeat: {times: 1, as: round}, stages: [{name: a, command: '${rund}'}]}", r"\$\{rund\} is no variable"),
    ],
)
def test_mistakes_in_a_group_are_named(write_experiment, tmp_path, group, message):
    file = write_experiment(tmp_path / "broken.yaml", group, variables={"known": 1})
    with pytest.raises(DataError, match=message) as raised:
        run_experiment(file, out=str(tmp_path / "run"))
    assert "broken.yaml" in str(raised.value)


def test_a_round_that_is_named_where_it_cannot_be_many_is_an_unknown_variable(write_experiment, tmp_path):
    file = write_experiment(
        tmp_path / "x.yaml", *FIRST, GROUP, "{name: 'a_${round}', command: world}", variables={"rounds": 1}
    )
    with pytest.raises(DataError, match=r"\$\{round\} is no variable"):
        run_experiment(file, out=str(tmp_path / "run"))
