"""Folders as the Hub's command line, `datasets` and people leave them: the right files, or a choice that works."""

import gzip
import json
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_rlhf.data.errors import DataError
from lit_rlhf.data.folder_rows import data_files, folder_and_config
from lit_rlhf.data.rows import find_files, read_rows, seekable_kind

SHARD = "-00000-of-00002"
OTHER = "-00001-of-00002"


def put(folder: Path, *names: str) -> Path:
    """Write files of one row, which says the file's name; a folder's README is written by `readme`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": name}
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        elif ".csv" in name:
            path.write_text(f"prompt\n{name}\n")
        else:
            content = json.dumps([row] if ".json" in path.suffixes else row).encode() + b"\n"
            path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def readme(folder: Path, *lines: str) -> None:
    (folder / "README.md").write_text("\n".join(["---", "license: mit", *lines, "---", "# Pairs", "---"]) + "\n")


def found(folder, split: str | None = None) -> list[str]:
    """The files whose rows are read."""
    return [row["prompt"] for _, row in read_rows(str(folder), split)]


def refused(folder, split: str | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        found(folder, split)
    return caught.value


# ---------------------------------------------------------------------- what needs no choice


@pytest.mark.parametrize(
    "names",
    [
        ["a.jsonl"],
        ["a.json"],
        ["a.jsonl.gz", "b.jsonl.gz"],
        ["pairs.csv", "pairs_more.csv"],
        ["data/a.parquet"],
        [f"data/train{SHARD}.parquet", f"data/train{OTHER}.parquet"],
        [f"data/train{SHARD}-0123456789abcdef.parquet", f"data/train{OTHER}-89abcdef01234567.parquet"],
        ["train.jsonl"],
        ["train/0000.parquet", "train/0001.parquet"],
        ["default/train/0000.parquet"],
        ["helpful/a.jsonl.gz"],
        ["part-00000.json", "part-00001.json", "part-00002.json"],
        ["train_1.jsonl", "train_2.jsonl"],
        ["train1.jsonl", "train2.jsonl"],
        ["2024-train-v2.jsonl"],
        ["a.jsonl", "b.csv", "c.parquet"],
    ],
)
def test_one_split_of_one_config_is_read(tmp_path, names):
    put(tmp_path, *names)
    for other in (
        "LICENSE",
        "load.py",
        ".gitattributes",
        ".cache/huggingface/x.json",
        "dataset_infos.json",
        "logo.png",
    ):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("{}")
    readme(tmp_path, "configs:", "- config_name: default")
    assert found(tmp_path) == names
    assert found(f"{tmp_path}/") == names
    assert found(tmp_path, "train") == names
    assert find_files(str(tmp_path)) == [str(tmp_path)]
    assert seekable_kind(str(tmp_path)) is None


def test_rows_carry_the_place_in_their_file(tmp_path):
    put(tmp_path, "a.jsonl", "b.json", "c.csv", "d.parquet")
    places = [location.removeprefix(f"{tmp_path}/") for location, _ in read_rows(str(tmp_path))]
    assert places == ["a.jsonl:1", "b.json:item 1", "c.csv:2", "d.parquet:row 1"]


# ---------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ([f"data/train{SHARD}.parquet", f"data/test{SHARD}.parquet"], ["train", "test"]),
        ([f"data/train_sft{SHARD}.parquet", f"data/train_prefs{SHARD}.parquet"], ["train_sft", "train_prefs"]),
        (["train.jsonl", "dev.jsonl"], ["train", "dev"]),
        (["hh.train.jsonl", "hh.eval.jsonl"], ["train", "eval"]),
        (["pairs-validation.csv", "pairs-test.csv"], ["validation", "test"]),
        (["train/a.json", "valid/a.json"], ["train", "valid"]),
        (["data/train/0.parquet", "data/val/0.parquet"], ["train", "val"]),
        (["helpful/train.jsonl.gz", "helpful/test.jsonl.gz"], ["train", "test"]),
        (["Train.jsonl", "Test.jsonl"], ["Train", "Test"]),
        (["train.jsonl", "more.jsonl"], ["train", "more"]),
        (["test/a.jsonl", "a.jsonl"], ["test", "a"]),
    ],
)
def test_splits_go_by_the_names_of_files_and_folders(tmp_path, names, splits):
    put(tmp_path, *names)
    for name, split in zip(names, splits, strict=True):
        assert found(tmp_path, split) == [name]
    error = str(refused(tmp_path))
    assert f"none was named; the splits are {', '.join(sorted(splits))}" in error
    hinted = re.search(r"--data.sources.path (\S+) --data.sources.split (\S+)$", error)
    assert found(hinted[1], hinted[2])
    assert "there is no split 'nowhere'; the splits are" in str(refused(tmp_path, "nowhere"))


def test_words_for_the_same_split_are_understood(tmp_path):
    put(tmp_path, "train.jsonl", "validation.jsonl")
    for word in ("dev", "val", "valid", "validation"):
        assert found(tmp_path, word) == ["validation.jsonl"]
    put(tmp_path, "dev.jsonl")
    assert found(tmp_path, "dev") == ["dev.jsonl"]
    assert "there is no split 'val'" in str(refused(tmp_path, "val"))


def test_the_only_split_must_be_the_one_that_was_asked_for(tmp_path):
    put(tmp_path, "test.jsonl")
    assert found(tmp_path) == ["test.jsonl"]
    assert "there is no split 'train'; the splits are test" in str(refused(tmp_path, "train"))


# ---------------------------------------------------------------------- configs


@pytest.mark.parametrize(
    "names",
    [
        ["harmless/train.jsonl.gz", "helpful/train.jsonl.gz"],
        ["harmless/a.jsonl", "helpful/b.csv"],
        [f"harmless/train{SHARD}.parquet", f"helpful/train{SHARD}.parquet"],
        ["harmless/data/a.json", "helpful/data/a.json"],
        ["data/harmless/a.json", "data/helpful/a.json"],
    ],
)
def test_configs_are_folders_and_asked_for(tmp_path, names):
    put(tmp_path, *names)
    error = str(refused(tmp_path))
    assert "none was named; the configs are harmless, helpful" in error
    assert error.endswith(f"{tmp_path}:harmless")
    assert found(f"{tmp_path}:harmless") == names[:1]
    assert found(f"{tmp_path}:helpful", "train") == names[1:]
    assert find_files(f"{tmp_path}:helpful") == [f"{tmp_path}:helpful"]
    assert found(Path(tmp_path, names[0]).parent) == names[:1]
    assert "there is no config 'nowhere'; the configs are harmless, helpful" in str(refused(f"{tmp_path}:nowhere"))


def test_a_config_with_splits_takes_both_choices(tmp_path):
    put(tmp_path, *(f"{config}/{split}.jsonl" for config in ("a", "b") for split in ("train", "test")))
    assert found(f"{tmp_path}:b", "test") == ["b/test.jsonl"]
    error = str(refused(f"{tmp_path}:b"))
    hinted = re.search(r"--data.sources.path (\S+) --data.sources.split (\S+)$", error)
    assert found(hinted[1], hinted[2]) == ["b/train.jsonl"]


def test_files_beside_the_folders_of_configs_are_a_config_too(tmp_path):
    put(tmp_path, "a.jsonl", "old/a.jsonl")
    assert "the configs are default, old" in str(refused(tmp_path))
    assert found(f"{tmp_path}:default") == ["a.jsonl"]


def test_a_config_of_a_folder_without_any_is_refused_with_what_works(tmp_path):
    put(tmp_path, "a.jsonl")
    assert str(refused(f"{tmp_path}:other")).endswith(f"Name the folder alone: {tmp_path}")
    assert found(f"{tmp_path}:default") == ["a.jsonl"]


def test_a_folder_with_a_colon_in_its_name_is_itself(tmp_path):
    put(tmp_path / "a:b", "a.jsonl")
    assert found(tmp_path / "a:b") == ["a.jsonl"]
    assert folder_and_config(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", None)
    assert folder_and_config(f"{tmp_path}/c:b") is None
    assert folder_and_config(f"{tmp_path}:") is None
    assert folder_and_config("a\0b:c") is None


# ---------------------------------------------------------------------- README.md


@pytest.mark.parametrize(
    "lines",
    [
        ["- config_name: default", "  data_files:", "  - split: train", "    path: data/first-*", "  - split: test",
         "    path: data/second-*"],
        ["- config_name: default", "  data_files:", "    train: data/first-*", "    test: [data/second-*]"],
        ["- config_name: default", "  data_dir: data", "  data_files:", "    train: first-*", "    test: second-*"],
    ],
)  # fmt: skip
def test_splits_that_a_readme_lists(tmp_path, lines):
    put(tmp_path, "data/first-0.parquet", "data/first-1.parquet", "data/second-0.parquet")
    readme(tmp_path, "configs:", *lines)
    assert found(tmp_path, "train") == ["data/first-0.parquet", "data/first-1.parquet"]
    assert found(tmp_path, "test") == ["data/second-0.parquet"]
    assert "the splits are test, train" in str(refused(tmp_path))


def test_configs_that_a_readme_lists(tmp_path):
    put(
        tmp_path,
        "all/birds.jsonl",
        "all/tools.jsonl",
        "all/more.csv",
        "extra/train.jsonl",
        "extra/test.jsonl",
        "x.json",
    )
    readme(
        tmp_path,
        "configs:",
        "- config_name: birds",
        "  data_files: all/birds.jsonl",
        "- config_name: tools",
        "  data_files: [all/tools.jsonl, 'all/*.csv']",
        "- config_name: extra",
        "  data_dir: extra",
    )
    assert "the configs are birds, extra, tools" in str(refused(tmp_path))
    assert found(f"{tmp_path}:birds") == ["all/birds.jsonl"]
    assert found(f"{tmp_path}:tools", "train") == ["all/more.csv", "all/tools.jsonl"]
    assert found(f"{tmp_path}:extra", "test") == ["extra/test.jsonl"]
    assert data_files(str(tmp_path), "birds")[1] == ["x.json"], "which belongs to none of them"


def test_what_a_readme_lists_but_was_not_downloaded_is_named(tmp_path):
    put(tmp_path, f"data/train{SHARD}.parquet")
    readme(
        tmp_path, "configs:", "- config_name: a", "  data_files: data/train-*", "- config_name: b", "  data_files: b/*"
    )
    assert "lists files of config 'b', but none of them is here" in str(refused(f"{tmp_path}:b"))
    assert found(f"{tmp_path}:a") == [f"data/train{SHARD}.parquet"]


@pytest.mark.parametrize(
    "pattern",
    ["../other/*.jsonl", "/etc/*.json", "https://example.org/a.jsonl", "hf://datasets/a/b/c.jsonl", "a/../../b"],
)
def test_a_readme_does_not_lead_out_of_its_folder(tmp_path, pattern):
    put(tmp_path, "a.jsonl")
    readme(tmp_path, "configs:", "- config_name: default", f"  data_files: '{pattern}'")
    assert "README.md: names a file outside of its folder" in str(refused(tmp_path))


@pytest.mark.parametrize(
    "lines",
    [
        ["configs: [", "a: b: c"],
        ["configs: 3"],
        ["configs: [1]"],
        ["configs: [{data_files: 3}]"],
        ["configs: [{data_files: [{split: train}]}]"],
        ["a: *b"],
    ],
)
def test_a_broken_readme_is_named(tmp_path, lines):
    put(tmp_path, "a.jsonl")
    readme(tmp_path, *lines)
    assert "README.md: the configs in its head cannot be read" in str(refused(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "# Pairs\n", "---\n", "---\n---\n", "---\n- a\n---\n", "---\nconfigs:\n---\n", "\ufeff---\nb: c\n---"]
)
def test_a_readme_that_lists_nothing_makes_no_difference(tmp_path, text):
    put(tmp_path, "a.jsonl")
    (tmp_path / "README.md").write_text(text)
    assert found(tmp_path) == ["a.jsonl"]


# ---------------------------------------------------------------------- what is not read


def test_what_looks_like_data_and_is_not_read_is_named_once(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", told.append)
    put(tmp_path, "a.jsonl")
    for name in (
        "more.xlsx",
        "old.zip",
        "notes.txt",
        "sub/dump.pkl",
        "README.md",
        "LICENSE",
        "run.py",
        "requirements.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    for _ in range(2):
        assert found(tmp_path) == ["a.jsonl"]
    assert told == [f"{tmp_path}: not read are more.xlsx, notes.txt, old.zip, sub/dump.pkl"]


def test_a_folder_without_data_says_what_is_in_it(tmp_path):
    (tmp_path / "more.xlsx").write_text("x")
    (tmp_path / "README.md").write_text("x")
    error = str(refused(tmp_path))
    assert "no data set that `save_to_disk` wrote, and no file of rows is in it; not read are more.xlsx" in error
    assert ".jsonl" in error


@pytest.mark.parametrize(
    "names", [["train.csv", "train.jsonl"], ["a.jsonl", "a.jsonl.gz"], ["d/a.json", "d/a.parquet"]]
)
def test_the_same_rows_are_not_read_twice(tmp_path, names):
    put(tmp_path, *names)
    error = str(refused(tmp_path))
    assert f"the same rows may be here twice, in {names[0]} and {names[1]}" in error
    hinted = error.rsplit(": ", 1)[1]
    assert found(hinted) == names[1:]


def test_an_empty_file_among_others_is_an_error(tmp_path):
    put(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_text("")
    assert f"{tmp_path / 'b.jsonl'}: empty" in str(refused(tmp_path))


def test_data_sets_that_were_saved_into_a_folder_are_its_configs(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    rows.save_to_disk(tmp_path / "one")
    assert found(tmp_path) == ["a", "b"]
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "two")
    assert "the configs are one, two" in str(refused(tmp_path))
    assert found(f"{tmp_path}:one") == ["a", "b"]
    assert found(f"{tmp_path}:two", "test") == found(tmp_path / "two", "test") == ["b"]


@given(st.text(st.sampled_from("train-_. 0123of.partv"), max_size=250))
def test_any_name_has_a_place(name):
    """And finding it takes no longer for a long one."""
    from lit_rlhf.data.folder_rows import _place

    config, split = _place(Path("x", f"{name}.jsonl"))
    assert config == "x"
    assert isinstance(split, str)
