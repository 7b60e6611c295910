import json

import numpy as np
import pytest
import torch

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.strength import strengths, table_rows
from lit_rlhf.data.treatments import Flip
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.rewards import ScalarRewardModule
from lit_rlhf.rewards import voters as voters_module
from lit_rlhf.rewards.voters import Voting, vote
from lit_rlhf.world import Annotator, WorldPairs

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


def pairs(size=32, **options):
    return PreferenceDataModule(
        WorldPairs(size, seed=1, annotator=Annotator(flip_rate=0.25)), val_fraction=0.2, batch_size=8, **options
    )


def voter(tiny_model):
    return ScalarRewardModule(tiny_model, Optimizer(lr=1e-3))


def voting(**options):
    return Voting(**{"voters": 2, "trainer": dict(TRAINER), **options})


@pytest.fixture(scope="module")
def voted(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voted")
    data = pairs()
    return vote(voter(tiny_model), data, folder, voting()), data


def test_every_pair_has_one_row_with_all_voters(voted):
    table, data = voted
    rows = {row["pair_hash"]: row for row in table_rows(table)}
    expected = {row.record.pair_hash: "train" for row in data.train_rows}
    expected |= {row.record.pair_hash: "validation" for row in data.val_rows}
    assert {name: row["part"] for name, row in rows.items()} == expected
    for row in rows.values():
        assert len(row["differences"]) == 2
        assert row["differences"][0] != row["differences"][1]
        assert row["mean"] == pytest.approx(np.mean(row["differences"]))
        assert row["std"] == pytest.approx(np.std(row["differences"]))
    records = [row.record for row in data.train_rows]
    np.testing.assert_allclose(strengths(str(table), records).mean(1), [rows[r.pair_hash]["mean"] for r in records])


def test_an_interrupted_run_goes_on_with_the_next_voter_and_gives_the_same_table(
    voted, tiny_model, tmp_path, monkeypatch
):
    trained = []
    run = voters_module._run

    def dying(job):
        if job.number == 1 and not trained[1:]:
            trained.append(job.number)
            raise KeyboardInterrupt
        trained.append(job.number)
        return run(job)

    monkeypatch.setattr(voters_module, "_run", dying)
    with pytest.raises(KeyboardInterrupt):
        vote(voter(tiny_model), pairs(), tmp_path, voting())
    table = vote(voter(tiny_model), pairs(), tmp_path, voting())
    assert trained == [0, 1, 1]
    assert table_rows(table) == table_rows(voted[0])


def test_a_log_shows_how_far_each_voter_is(tiny_model, tmp_path, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    vote(voter(tiny_model), pairs(), tmp_path, voting(trainer={"accelerator": "cpu"}))
    said = [line.getMessage() for line in caplog.records if line.getMessage().startswith("fit: step")]
    assert len(said) == 2
    assert all("(100%), loss" in line for line in said)


def test_more_voters_keep_those_that_are_there(tiny_model, tmp_path, monkeypatch):
    vote(voter(tiny_model), pairs(), tmp_path, voting(voters=1))
    trained = []
    run = voters_module._run
    monkeypatch.setattr(voters_module, "_run", lambda job: trained.append(job.number) or run(job))
    table = vote(voter(tiny_model), pairs(), tmp_path, voting())
    assert trained == [1]
    assert len(table_rows(table)[0]["differences"]) == 2


@pytest.mark.parametrize("other", [{"epochs": 2}, {"seed": 1}, {"folds": 2}])
def test_voters_of_other_settings_are_refused(voted, tiny_model, other):
    with pytest.raises(DataError, match=next(iter(other))):
        vote(voter(tiny_model), pairs(), voted[0].parent, voting(**other))


def test_parallel_voters_are_the_voters_of_a_run_one_after_another(voted, tiny_model, tmp_path):
    table = vote(voter(tiny_model), pairs(), tmp_path, voting(parallel=2))
    for here, there in zip(table_rows(table), table_rows(voted[0]), strict=True):
        np.testing.assert_allclose(here["differences"], there["differences"], atol=1e-5)


def test_with_folds_no_pair_is_judged_by_a_model_that_was_trained_on_its_prompt(tiny_model, tmp_path, monkeypatch):
    seen = []
    train = voters_module._train

    def spy(module, data, judged, how):
        prompts = {row.record.prompt_hash for row in data.train_rows}
        validation = {id(row) for row in data.val_rows}
        seen.append(([row for row in judged if row.record.prompt_hash in prompts], len(judged), len(validation)))
        return train(module, data, judged, how)

    monkeypatch.setattr(voters_module, "_train", spy)
    data = pairs()
    table = vote(voter(tiny_model), data, tmp_path, voting(voters=1, folds=2))
    assert len(seen) == 2
    assert not any(leak for leak, _, _ in seen)
    assert sum(judged for _, judged, _ in seen) == len(data.train_rows) + 2 * len(data.val_rows)
    assert len(table_rows(table)) == len(data.train_rows) + len(data.val_rows)


def test_seeing_pairs_more_than_once_is_warned_of(tiny_model, tmp_path):
    with pytest.warns(UserWarning, match=r"2 epochs.*memorise"):
        vote(voter(tiny_model), pairs(8), tmp_path, voting(voters=1, epochs=2))
    source = WorldPairs(8, seed=1, weight=2.0)
    with pytest.warns(UserWarning, match="8 repeated pairs"):
        vote(voter(tiny_model), PreferenceDataModule(source, val_fraction=0), tmp_path / "b", voting(voters=1))


def test_treatments_have_no_place_in_voting(tiny_model, tmp_path):
    with pytest.raises(DataError, match="labels as they are"):
        vote(voter(tiny_model), pairs(strength="data", treatments=[Flip()]), tmp_path, voting())


def test_voters_that_learned_find_flipped_labels(tiny_model, tmp_path):
    """A reward that is easy to read off, some labels wrong: the wrong ones get the weakest strength."""
    rows = []
    for i in range(160):
        good, bad = "thank you", "no"
        wrong = i % 8 == 0
        chosen, rejected = (bad, good) if wrong else (good, bad)
        rows.append({"prompt": f"Please describe a river {i}", "chosen": chosen, "rejected": rejected})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    data = PreferenceDataModule(str(file), val_fraction=0, batch_size=8)
    table = vote(ScalarRewardModule(tiny_model, Optimizer(lr=3e-3)), data, tmp_path / "votes", voting())
    means = {row.record.location: row.record.pair_hash for row in data.train_rows}
    by_hash = {row["pair_hash"]: row["mean"] for row in table_rows(table)}
    doubted = {int(where.split(":")[-1].split()[0]) for where, name in means.items() if by_hash[name] < 0}
    assert doubted == {i + 1 for i in range(0, 160, 8)}
