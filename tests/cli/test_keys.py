import os

import pytest

from lit_rlhf.cli import keys
from lit_rlhf.cli.keys import input_files, without_quiet_options, writes_elsewhere


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("one")
    (tmp_path / "model" / "part").mkdir(parents=True)
    (tmp_path / "model" / "part" / "weights").write_text("1")
    (tmp_path / "run" / "sft").mkdir(parents=True)
    return tmp_path


def files(place, *options, command="fit") -> dict[str, str]:
    return input_files(options, place / "run", command)


def test_files_are_found_wherever_options_name_them(place):
    nested = {"data": {"sources": ["pairs.jsonl", {"init_args": {"path": str(place / "pairs.jsonl")}}]}, "n": 3}
    words = ["--data.val_sources=pairs.*", "--model.init_args.model", "model"]
    found = files(place, nested, words, "not-there.jsonl", "", "a text\nof two lines", "x" * 9999, "a\0b")
    assert set(found) == {"pairs.jsonl", str(place / "pairs.jsonl"), "pairs.*", "model"}


def test_the_content_decides_not_the_time(place):
    before = files(place, "pairs.jsonl", "model")
    os.utime(place / "pairs.jsonl", (1, 1))
    assert files(place, "pairs.jsonl", "model") == before
    (place / "pairs.jsonl").write_text("two")
    (place / "model" / "part" / "weights").write_text("2")
    after = files(place, "pairs.jsonl", "model")
    assert all(after[name] != before[name] for name in before)


def test_a_file_more_in_a_folder_or_a_pattern_is_a_change(place):
    before = files(place, "model", "*.jsonl")
    (place / "model" / "more").write_text("")
    (place / "more.jsonl").write_text("")
    after = files(place, "model", "*.jsonl")
    assert all(after[name] != before[name] for name in ("model", "*.jsonl"))


def test_huge_files_are_known_by_size_and_time(place, monkeypatch):
    monkeypatch.setattr(keys, "_WHOLE", 2)
    os.utime(place / "pairs.jsonl", (1, 1))
    before = files(place, "pairs.jsonl")
    (place / "pairs.jsonl").write_text("two")
    os.utime(place / "pairs.jsonl", (1, 1))
    assert files(place, "pairs.jsonl") == before
    os.utime(place / "pairs.jsonl", (2, 2))
    assert files(place, "pairs.jsonl") != before


def test_the_run_itself_and_what_is_written_to_are_no_inputs(place):
    (place / "store").mkdir()
    model = {"init_args": {"store": "store"}}
    assert files(place, "run/sft", "run", ".", str(place), {"directory": "model", "out": "model"}) == {}
    assert files(place, model, command="predict") == {}
    assert set(files(place, model, command="fit")) == {"store"}  # a contrastive reward reads its store


def test_a_stage_that_writes_outside_its_folder_is_known(place):
    own = place / "run" / "sft"
    assert not writes_elsewhere({"directory": "run/sft/model", "seed": 3, "model": "model"}, own, "world")
    assert writes_elsewhere({"out": "run"}, own, "compare")
    assert writes_elsewhere({"model": {"init_args": {"store": "store"}}}, own, "predict")
    assert not writes_elsewhere({"model": {"init_args": {"store": "store"}}}, own, "fit")


def test_options_about_loggers_and_the_screen_are_left_out():
    words = [
        "--trainer.logger",
        "false",
        "--trainer.max_steps",
        "-3",
        "--trainer.logger.init_args.name=x",
        "--data.a=b",
    ]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "2"]
    kept = ["--trainer.max_steps", "-3", "--data.a=b", "--trainer.log_every_n_steps", "2"]
    assert without_quiet_options(words) == kept
    assert without_quiet_options(["--trainer.enable_model_summary=false"]) == []
