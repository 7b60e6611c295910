import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from lit_rlhf.data.batches import PairBatch, PromptBatch, ResponseBatch
from lit_rlhf.data.collate import collate_rows
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.files import PairFiles
from lit_rlhf.data.records import Message, Record, Source
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.world import WorldPairs
from tests.data.resuming import Learner, batches_of_a_run

VIEWS = ("pairs", "responses", "prompts")


class Listed(Source):
    """A source in memory that counts how often it is read."""

    def __init__(self, records, name: str = "listed", weight: float = 1.0) -> None:
        self.listed, self.name, self.weight, self.reads = list(records), name, weight, 0

    def records(self):
        self.reads += 1
        return (replace(record, source=self.name) for record in self.listed)


def pair(text: str, chosen: str | None = "Good.", rejected: str | None = "No.", **more) -> Record:
    return Record((Message("user", text),), chosen, rejected, **more)


def numbered(numbers, **more) -> list[Record]:
    return [pair(f"Give {n} tips", **more) for n in numbers]


@pytest.fixture(scope="module")
def world() -> list[Record]:
    """Four hundred pairs, each prompt twice."""
    records = list(WorldPairs(200, seed=0).records())
    return records + [replace(record, chosen=record.rejected, rejected=record.chosen) for record in records]


@pytest.fixture
def build(tiny_model):
    """Build and load a DataModule on the tiny model's tokenizer."""

    def build(sources, view: str = "pairs", **options) -> PreferenceDataModule:
        data = PreferenceDataModule(sources, **options)
        data.load(view, tiny_model)
        return data

    return build


def prompts(rows) -> set[str]:
    return prompts_of(row.record for row in rows)


def prompts_of(records) -> set[str]:
    return {record.prompt[0].content for record in records}


# ---------------------------------------------------------------------- the split


def test_a_prompt_never_sits_on_both_sides(build, world):
    sides = []
    for view in VIEWS:
        data = build(Listed(world), view, val_fraction=0.3)
        train, held_out = prompts(data.train_rows), prompts(data.val_rows)
        assert 0 < len(held_out) < len(train)
        assert train.isdisjoint(held_out)
        assert train | held_out == prompts_of(world)
        sides.append(held_out)
    assert sides[0] == sides[1] == sides[2], "every stage sets the same prompts aside"


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_split_takes_about_the_share_that_was_asked_for(build, fraction):
    data = build(Listed(numbered(range(2000))), val_fraction=fraction)
    spread = (2000 * fraction * (1 - fraction)) ** 0.5
    assert abs(len(data.val_rows) - 2000 * fraction) <= 4 * spread
    assert len(data.val_rows) + len(data.train_rows) == 2000
    if fraction == 0:
        assert data.val_dataloader() == []


def test_more_data_moves_no_prompt_to_the_other_side(build):
    few = build(Listed(numbered(range(200))), val_fraction=0.3)
    many = build(Listed(numbered(range(1000))), val_fraction=0.3, seed=7)
    assert prompts(few.val_rows) == prompts(many.val_rows) & prompts_of(numbered(range(200)))


def test_validation_sources_are_used_whole_and_their_prompts_leave_training(build):
    data = build(Listed(numbered(range(100))), val_sources=Listed(numbered(range(90, 120))), val_fraction=0.5)
    assert prompts(data.train_rows) == prompts_of(numbered(range(90)))
    assert prompts(data.val_rows) == prompts_of(numbered(range(90, 120)))
    assert data.counts["train"].in_validation == 10
    assert data.counts["validation"].in_validation == 0


def test_texts_without_a_prompt_are_split_by_themselves(build):
    """All labelled texts answer the same empty prompt, which cannot sit on both sides."""
    records = [pair("", f"{n} Good.", "No.") for n in range(500)]
    data = build([Listed(records), Listed(records[:100])], template="{{ '<user>' }}{{ messages[0].content }}")
    train, held_out = ({row.record.chosen for row in rows} for rows in (data.train_rows, data.val_rows))
    assert train.isdisjoint(held_out)
    assert len(train | held_out) == 500
    assert 5 <= len(held_out) <= 60


# ---------------------------------------------------------------------- counts and weights


def test_counts_add_up_to_what_was_read(build, tmp_path):
    rows = [{"prompt": f"Give {n} tips", "chosen": "Good.", "rejected": "No."} for n in range(300)]
    rows += [{"prompt": f"Give {n} tips", "chosen": "Good.", "rejected": "Good."} for n in range(40)]
    rows += [{"prompt": "a " * 200 + str(n), "chosen": "Good.", "rejected": "No."} for n in range(20)]
    rows += [{"prompt": f"Give {n} tips", "chosen": "Good."} for n in range(7)]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n" * 3)
    sources = [PairFiles(str(path), "explicit", on_bad_row="skip"), Listed(numbered(range(25), tie=True), "ties")]
    data = build(sources, max_length=100, val_fraction=0.2)
    train, held_out = data.counts["train"], data.counts["validation"]
    assert train.bad == 10  # seven rows without a rejected response, three that are no JSON
    total = Counter(asdict(train)) + Counter(asdict(held_out))
    assert total["kept"] == len(data.train_rows) + len(data.val_rows) == 300
    assert (total["identical"], total["over_length"], total["tie"]) == (40, 20, 25)
    assert sum(vars(train).values()) - train.bad == 300 + 40 + 20 + 25
    assert sum(vars(held_out).values()) == train.in_validation > 0


def test_weights_thin_out_and_repeat(build):
    half, once, twice = (
        Listed(numbered(range(1000 * i, 1000 * i + 1000)), name, weight)
        for i, (name, weight) in enumerate([("half", 0.5), ("once", 1.0), ("twice", 2.0)])
    )
    data = build([half, once, twice], val_fraction=0.0)
    rows = Counter(row.record.source for row in data.train_rows)
    assert rows["once"] == 1000
    assert rows["twice"] == 2000
    assert abs(rows["half"] - 500) < 4 * 250**0.5
    uses = Counter((row.record.source, row.record.prompt) for row in data.train_rows)
    assert {uses[key] for key in uses if key[0] == "twice"} == {2}
    assert {uses[key] for key in uses if key[0] == "half"} == {1}


def test_cutting_keeps_the_end_of_long_prompts(build):
    records = [pair("a " * n + "good") for n in (5, 100, 200)]
    dropped = build(Listed(records), max_length=40, val_fraction=0.0)
    cut = build(Listed(records), max_length=40, over_length="cut_prompt", val_fraction=0.0)
    assert (len(dropped.train_rows), dropped.counts["train"].over_length) == (1, 2)
    assert [row.length for row in cut.train_rows] == [dropped.train_rows[0].length, 40, 40]
    for row in cut.train_rows:
        whole = cut.renderer.prompt_ids(row.record.prompt)
        assert row.prompt == whole[:1] + whole[len(whole) - len(row.prompt) + 1 :]  # the template's first mark stays
        assert row.chosen == cut.renderer.response_ids("Good.")


# ---------------------------------------------------------------------- batches


def test_pair_batches_hold_the_rows_and_what_is_known_of_them(build):
    truths = [None, True, False] * 10
    known = Listed([pair(f"Give {n} tips", chosen_is_better=truth) for n, truth in enumerate(truths)], "known")
    data = build([Listed(numbered(range(50, 80)), "other"), known], batch_size=7, val_fraction=0.0)
    assert data.source_names == ["other", "known"]
    seen = Counter()
    for batch in data.train_dataloader():
        assert isinstance(batch, PairBatch)
        assert len(batch) <= 7
        assert {data.renderer.response_text(ids) for ids in batch.chosen.response_lists()} == {"Good."}
        assert {data.renderer.response_text(ids) for ids in batch.rejected.response_lists()} == {"No."}
        assert torch.equal(batch.chosen.prompt_length, batch.rejected.prompt_length)
        seen.update(zip((record.source for record in batch.records), batch.chosen_is_better.tolist(), strict=True))
    assert seen == {("other", -1): 30, ("known", -1): 10, ("known", 1): 10, ("known", 0): 10}


@pytest.mark.parametrize(
    ("view", "kind"), [("pairs", PairBatch), ("responses", ResponseBatch), ("prompts", PromptBatch)]
)
def test_each_view_gives_its_own_batches_of_all_rows(build, world, view, kind):
    data = build(Listed(world), view, batch_size=16, val_fraction=0.2)
    for loader, rows in ((data.train_dataloader(), data.train_rows), (data.val_dataloader(), data.val_rows)):
        batches = list(loader)
        assert {type(batch) for batch in batches} == {kind}
        assert sum(map(len, batches)) == len(rows)
        if view == "prompts":
            found = [batch.ids[i, : batch.length[i]].tolist() for batch in batches for i in range(len(batch))]
            records = list(chain.from_iterable(batch.records for batch in batches))
            assert [data.renderer.prompt_ids(record.prompt) for record in records] == found
            assert sorted(found) == sorted(row.prompt for row in rows)
        else:
            chosen = [batch.chosen if view == "pairs" else batch.sequences for batch in batches]
            found = [response for sequences in chosen for response in sequences.response_lists()]
            assert sorted(found) == sorted(row.chosen for row in rows)


def test_training_is_shuffled_and_everything_else_keeps_its_order(build, world):
    data = build(Listed(world), "prompts", batch_size=8, val_fraction=0.2)

    def order(loader) -> list[str]:
        return [record.prompt[0].content for batch in loader for record in batch.records]

    train = [row.record.prompt[0].content for row in data.train_rows]
    held_out = [row.record.prompt[0].content for row in data.val_rows]
    assert order(data.predict_dataloader()) == train
    assert order(data.val_dataloader()) == order(data.test_dataloader()) == held_out
    assert sorted(order(data.train_dataloader())) == sorted(train)
    assert order(data.train_dataloader()) != train
    assert [len(next(iter(loader))) for loader in (data.train_dataloader(), data.val_dataloader())] == [8, 16]


def test_padding_can_be_filled_with_anything(build):
    data = build(Listed([pair("Give"), pair("Give a good tip")]), val_fraction=0.0)
    first, second = (collate_rows(data.train_rows, "pairs", pad_id) for pad_id in (0, 17))
    mask = first.chosen.mask
    assert not mask.all()
    assert torch.equal(first.chosen.ids[mask], second.chosen.ids[mask])
    assert (second.chosen.ids[~mask] == 17).all()


# ---------------------------------------------------------------------- reading


def test_sources_are_read_once_per_view(build, tiny_model):
    source = Listed(numbered(range(20)))
    (data := build(source)).load("pairs", tiny_model)
    assert source.reads == 1
    data.load("prompts", tiny_model)
    assert source.reads == 2
    assert (data.view, data.train_rows[0].chosen) == ("prompts", [])


def test_a_path_is_a_source(build, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Give a tip", "chosen": "Good.", "rejected": "No."}) + "\n")
    for sources in (str(path), [str(path)]):
        data = build(sources, val_fraction=0.0)
        assert data.source_names == ["pairs"]
        assert prompts(data.train_rows) == {"Give a tip"}


def test_the_option_tokenizer_and_template_decide_over_the_ids(tiny_model):
    data = PreferenceDataModule(Listed(numbered(range(5))), tokenizer=tiny_model, template="plain", val_fraction=0.0)
    data.load("pairs")
    assert data.renderer.fingerprint == Renderer.load(tiny_model, "plain").fingerprint
    assert data.train_rows[0].prompt == data.renderer.prompt_ids(numbered([0])[0].prompt)


THREE = numbered(range(3))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda path, file: PreferenceDataModule([]), "option data.sources: is empty"),
        (lambda path, file: PreferenceDataModule(file, batch_size=0), "option data.batch_size: expected"),
        (lambda path, file: PreferenceDataModule(file, val_batch_size=-1), "option data.val_batch_size: expected"),
        (lambda path, file: PreferenceDataModule(file, max_length=0), "option data.max_length: expected"),
        (lambda path, file: PreferenceDataModule(file, val_fraction=1.5), "option data.val_fraction: expected"),
        (lambda path, file: PreferenceDataModule(file).load("pairs"), "option tokenizer: is missing"),
        (lambda path, file: PreferenceDataModule(file).load("pairs", "/no/such/place"), "/no/such/place"),
        (lambda path, file: PreferenceDataModule("/no/such/pairs.jsonl").load("pairs", path), "/no/such/pairs.jsonl"),
        (lambda path, file: PreferenceDataModule(file).load("pairs", path), "broken.jsonl:2"),
        (lambda path, file: PreferenceDataModule(Listed(numbered([1]))).setup(), "option view: is missing"),
        (
            lambda path, file: PreferenceDataModule(Listed(numbered(range(9))), max_length=3).load("pairs", path),
            "option data.sources: no pairs are left\n  What was read: 0 kept, 9 over length. Raise data.max_length",
        ),
        (
            lambda path, file: PreferenceDataModule(Listed([replace(each, rejected=None) for each in THREE])).load(
                "pairs", path
            ),
            "incomplete. These rows have not what pairs need",
        ),
    ],
)
def test_errors_name_the_option_or_the_file(tiny_model, tmp_path, act, says):
    file = tmp_path / "broken.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": 7, "rejected": "c"}\n')
    with pytest.raises(DataError) as caught:
        act(tiny_model, str(file))
    assert says in str(caught.value)


# ---------------------------------------------------------------------- resuming


FIFTY = [*numbered(range(49)), pair("a " * 50)]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 16},
        {"bucket": 1},
        {"max_length": 40},
        {"template": "plain"},
        {"view": "responses"},
        {"sources": Listed(FIFTY[1:])},
        {"sources": Listed(FIFTY[::-1])},
        {"sources": Listed([*FIFTY[:-1], replace(FIFTY[-1], rejected="No no.")])},
    ],
)
def test_a_checkpoint_refuses_other_data(build, change):
    options = {"sources": Listed(FIFTY), "val_fraction": 0.0}
    state = build(**options).state_dict()
    build(**options).load_state_dict(state)
    with pytest.raises(DataError, match="written with other data"):
        build(**{**options, **change}).load_state_dict(state)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_trainer_resumes_on_the_same_data_and_refuses_others(tiny_model, tmp_path):
    def fit(seed: int = 0, **at) -> list[str]:
        data = PreferenceDataModule(Listed(numbered(range(50))), batch_size=8, val_fraction=0.0, seed=seed)
        return batches_of_a_run(Learner(tiny_model, "prompts"), data, **at)

    stopped = tmp_path / "stopped.ckpt"
    assert len(whole := fit()) == 14
    fit(stop=(9, stopped))
    assert fit(checkpoint=stopped) == whole[9:]
    with pytest.raises(DataError, match="option data: the checkpoint was written with other data"):
        fit(seed=1, checkpoint=stopped)


def test_data_for_evaluation_alone_need_no_training_rows(tiny_model):
    module = PreferenceDataModule(Listed(numbered(range(9))), val_fraction=1.0)
    module.load("pairs", tiny_model)
    assert len(module.val_rows) == 9
    with pytest.raises(DataError, match="no pairs are left for training"):
        module.train_dataloader()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_other_data_may_be_measured_on_but_not_trained_on(tiny_model, command):
    module = PreferenceDataModule(Listed(numbered(range(9))))
    module.load("pairs", tiny_model)
    other = PreferenceDataModule(Listed(numbered(range(12))))
    other.load("pairs", tiny_model)
    other.trainer = SimpleNamespace(state=SimpleNamespace(fn=command), global_rank=0, world_size=1)
    if command == "validate":
        other.load_state_dict(module.state_dict())
    else:
        with pytest.raises(DataError, match="other data"):
            other.load_state_dict(module.state_dict())


@pytest.mark.parametrize(("known", "warned"), [(True, False), (False, True)])
def test_words_that_the_tokenizer_does_not_know_are_said(tiny_model, caplog, world, known, warned):
    rows = world[:8] if known else [replace(record, chosen="你好 🍲") for record in world[:8]]
    with caplog.at_level("INFO"):
        PreferenceDataModule(Listed(rows), val_fraction=0.0).load("pairs", tiny_model)
    assert ("are unknown to the tokenizer" in caplog.text) == warned
