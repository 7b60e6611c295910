import json
import struct
import subprocess
import sys
import time

import datasets
import pytest
from huggingface_hub import constants

from lit_rlhf.data import hub
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.rows import read_rows

ROWS = [{"prompt": f"p{i}", "chosen": [{"role": "assistant", "content": f"c{i}"}], "score": i / 2} for i in range(5)]


@pytest.fixture
def data():
    return datasets.Dataset.from_list(ROWS)


def test_a_saved_data_set_gives_its_rows(tmp_path, data):
    data.save_to_disk(tmp_path / "one")
    found = list(read_rows(str(tmp_path / "one")))
    assert [row for _, row in found] == ROWS
    assert found[2][0] == f"{tmp_path / 'one'}:row 3"


def test_rows_are_plain_python_whatever_format_the_data_was_saved_with(tmp_path, data):
    data.with_format("numpy").save_to_disk(tmp_path / "one")
    assert [row for _, row in read_rows(str(tmp_path / "one"))] == ROWS


def test_splits_are_chosen_by_name(tmp_path, data):
    folder = str(tmp_path / "two")
    datasets.DatasetDict(train=data, test=data.select([4])).save_to_disk(folder)
    assert [row for _, row in read_rows(folder, split="test")] == ROWS[4:]
    with pytest.raises(DataError, match="none was named; the splits are test, train"):
        list(read_rows(folder))
    with pytest.raises(DataError, match="no split 'dev'; the splits are test, train"):
        list(read_rows(folder, split="dev"))


def test_a_single_split_needs_no_name(tmp_path, data):
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "one")
    assert [row for _, row in read_rows(str(tmp_path / "one"))] == ROWS
    data.save_to_disk(tmp_path / "bare")
    with pytest.raises(DataError, match="'train' was asked for"):
        list(read_rows(str(tmp_path / "bare"), split="train"))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no data set that `save_to_disk` wrote"):
        list(read_rows(str(tmp_path)))
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert list(read_rows(str(tmp_path))) == [(f"{tmp_path / 'a.jsonl'}:1", {})]


@pytest.mark.parametrize("damage", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_data_set_is_an_error(tmp_path, data, damage):
    folder = tmp_path / "one"
    data.save_to_disk(folder)
    (folder / damage).write_bytes(b"garbage")
    with pytest.raises(DataError, match="damaged data set"):
        list(read_rows(str(folder)))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)


@pytest.mark.parametrize("name", ["owner/name", "name"])
def test_a_model_that_is_nowhere_is_refused_at_once(monkeypatch, no_network, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=f"{name}: no such folder here, and the Hub cannot be reached") as caught:
        Renderer.load(name)
    assert "lit-rlhf world FOLDER" in str(caught.value)
    (tmp_path / "names").mkdir()
    if "/" not in name:
        with pytest.raises(DataError, match="Did you mean names"):
            Renderer.load(name)


def test_a_model_that_was_downloaded_before_is_not_asked_for(monkeypatch, no_network, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: str(tmp_path))
    hub.check_model("owner/name")


def test_a_tokenizer_that_was_downloaded_alone_is_not_asked_for(monkeypatch, no_network, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "tokenizer_config.json").write_text("{}")
    hub.check_model("owner/name")


@pytest.mark.parametrize(
    "name", ["owner/a--b", "owner/sft..x", "owner/name:part", "a" * 100, "name-", "owner/name.git"]
)
def test_a_name_that_the_hub_cannot_have_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: pytest.fail("asked the network"))
    with pytest.raises(DataError, match="no such folder"):
        Renderer.load(name)


def test_without_a_network_it_fails_at_once_and_says_so(monkeypatch, no_network):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    begin = time.monotonic()
    with pytest.raises(DataError) as caught:
        list(read_rows("owner/name"))
    assert time.monotonic() - begin < 5
    assert "the Hub cannot be reached" in str(caught.value)
    assert "owner/name" in str(caught.value)


def test_offline_mode_goes_to_the_cache_only(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.socket, "create_connection", lambda *a, **k: pytest.fail("asked the network"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="the Hub says"):
        list(read_rows("owner/name"))


def test_a_hub_data_set_is_asked_for_by_name_config_and_split(monkeypatch, data):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return data if split else datasets.DatasetDict(train=data)

    monkeypatch.setattr(hub, "_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row for _, row in read_rows("owner/name:part", split="train[:5]")] == ROWS
    assert [row for _, row in read_rows("owner/name")] == ROWS
    assert asked == [("owner/name", "part", "train[:5]"), ("owner/name", None, None)]


@pytest.mark.parametrize(
    "says",
    [
        "Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nExample of usage:",
        "BuilderConfig 'other' not found. Available: ['small', 'large']",
    ],
)
def test_the_configs_of_a_hub_data_set_are_listed(monkeypatch, says):
    def load(name, config, split):
        raise ValueError(says)

    monkeypatch.setattr(hub, "_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError) as caught:
        list(read_rows("owner/name:other"))
    assert "Name one of its configs, as owner/name:CONFIG; there are 'small', 'large'." in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../other/data-00000-of-00001.arrow", "/etc/passwd", "sub/x.arrow", "..", "", 7, None], ids=str
)
@pytest.mark.parametrize("splits", [False, True])
def test_a_data_set_reads_no_file_outside_of_its_folder(tmp_path, data, name, splits):
    data.save_to_disk(tmp_path / "other")
    folder = tmp_path / "one"
    (datasets.DatasetDict(train=data) if splits else data).save_to_disk(folder)
    path = folder / "train" / "state.json" if splits else folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"state\.json: (names a file outside|damaged)"):
        list(read_rows(str(folder)))


@pytest.mark.parametrize("name", ["../other", "/tmp", ".."])
def test_nor_a_split_outside_of_it(tmp_path, data, name):
    data.save_to_disk(tmp_path / "other")
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "two")
    (tmp_path / "two" / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(DataError, match=r"dataset_dict\.json: names a file outside"):
        list(read_rows(str(tmp_path / "two"), split=name))


def test_pictures_are_left_out_and_nothing_is_opened_for_them(tmp_path, monkeypatch):
    """A row may say that its picture is any file, or an address; reading text must open neither."""
    picture = {"bytes": None, "path": "http://127.0.0.1:9/secret.png"}
    features = datasets.Features(
        prompt=datasets.Value("string"),
        seen=datasets.Image(),
        more=datasets.List(datasets.Image()),
        deep={"map": datasets.Image()},
    )
    row = {"prompt": "p", "seen": picture, "more": [picture], "deep": {"map": picture}}
    table = {name: [value] for name, value in row.items()}
    made = datasets.Dataset.from_dict(table, features=features)
    made.remove_columns(["seen", "more", "deep"]).save_to_disk(tmp_path / "one")  # saving would open them too
    monkeypatch.setattr(datasets, "load_from_disk", lambda folder: made)
    assert [row for _, row in read_rows(str(tmp_path / "one"))] == [{"prompt": "p"}]


def test_a_table_whose_texts_lie_outside_of_it_is_refused(tmp_path, data):
    """In a process of its own: to read such a table ends the process."""
    data.save_to_disk(tmp_path / "one")
    (path,) = (tmp_path / "one").glob("*.arrow")
    places = struct.pack("<6i", 0, 2, 4, 6, 8, 10)  # of p0 to p4 in one buffer
    assert places in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(places, struct.pack("<6i", 0, 2, 4, 6, 8, 2**30)))
    statement = f"from lit_rlhf.data.rows import read_rows; list(read_rows({str(tmp_path / 'one')!r}))"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DataError" in done.stderr
    assert "damaged data set" in done.stderr
