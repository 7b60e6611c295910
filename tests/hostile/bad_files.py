"""Malformed files and folders: JSON in all layouts, compressed files, tables, Parquet, Arrow."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.making import (
    AGAIN,
    FIRST,
    GOOD,
    MEND,
    ROWS_WANTED,
    Bad,
    by_arrow,
    cut,
    folder,
    lines,
    parquet,
    put,
    replace,
    row,
    saved,
    zipped,
)

JSON_LINES = [
    row("cut", b'{"prompt": "q", "chosen": "a', "broken JSON at character 27, where it says"),
    row("bare-key", b'{prompt: "q"}', "broken JSON at character 2, where it says 'prompt: \"q\"}'"),
    row("quotes", b"{'prompt': 'q'}", "broken JSON at character 2"),
    row("two", b"{} {}", "broken JSON at character 4, where it says '{}': extra data"),
    row("comma", b'{"prompt": "q",}', "broken JSON at character 16"),
    row("comment", b'{"prompt": "q"} // no', "broken JSON at character 17"),
    row("list", [GOOD], "expected one JSON object per row, found a list"),
    row("number", 3, "found a number"),
    row("null", None, "found null"),
    row("text", "q", "found text"),
    row("bool", True, "found true or false"),
    row("nan", b'{"prompt": "q", "chosen": NaN, "rejected": "b"}', "field 'chosen': expected text, found a number"),
    row("infinity", GOOD | {"margin": -float("inf")}, "field 'margin': expected a finite number, found -inf"),
    row("latin1", b'{"prompt": "\xe9"}', "not UTF-8: byte 0xe9 at position 13", todo="Save the file as UTF-8."),
    row("overlong", b'{"prompt": "\xc0\xaf"}', "not UTF-8: byte 0xc0 at position 13", todo="Save the file as UTF-8."),
    row("control", b'{"prompt": "a\x01b"}', "broken JSON at character 14, where it says '\\x01b\"}': invalid control"),
    row("nul", b"\0", "broken JSON at character 1"),
    row("deep", b'{"prompt": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", "unreadable JSON"),
    row("digits", b'{"id": ' + b"9" * 9000 + b"}", "unreadable JSON"),
    row(
        "twice", b'{"prompt": "q", "chosen": "a", "rejected": "b", "chosen": "c"}', "field 'chosen' is given more than"
    ),
    row("role-twice", b'{"prompt": [{"role": "user", "role": "system"}]}', "field 'role' is given more than once"),
    Bad("empty.jsonl", b"", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("blank.jsonl", b"\n  \n\t\n", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("last a.jsonl", lines(GOOD)[:-9], ":1: ", "broken JSON", "the file may have been cut off"),
    Bad("utf16 a.jsonl", json.dumps(GOOD).encode("utf-16"), ":1: ", "not UTF-8: byte 0xff", "Save the file as UTF-8."),
    Bad("half a.json", b'[{"prompt": "q"},', ": ", "broken JSON at character 18", "Mend it there"),
    Bad("none a.json", b"[]", ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("items a.json", json.dumps([GOOD, 7]).encode(), ":item 2: ", "found a number", MEND),
    Bad("bare a.json", b'[["q", "a", "b"]]', ":item 1: ", "expected one JSON object per row", "orient='records'"),
    Bad("comma a.json", b'[{"prompt": "q"},\n]', ":2: ", "another row", "Take away the comma"),
    Bad("over a.json", b'{\n "prompt": "q"\n}\n{\n "prompt" "q"\n}', ":5: ", "broken JSON at character 11", "Mend it"),
    Bad("behind a.json", b'[{"prompt": "q"}] {}', ": ", "expecting nothing behind the list", "Mend it there"),
    Bad(
        "splits a.json",
        json.dumps({"train": [GOOD], "test": [GOOD]}).encode(),
        ", split: ",
        "the splits are test, train",
        "data.sources.split train",
    ),
    Bad(
        "beside a.json",
        json.dumps({"prompt": "q", "data": [GOOD]}).encode(),
        ": ",
        "holds rows in 'data', and beside",
        "with one row per line",
    ),
    Bad(
        "cells a.json",
        json.dumps({"columns": ["prompt", "id"], "data": [["q"]]}).encode(),
        ":item 1: ",
        "1 cells, but there are 2 columns",
        "",
    ),
    Bad(
        "viewer a.jsonl",
        lines({"row_idx": 0, "row": GOOD, "truncated_cells": ["chosen"]}),
        ":1: ",
        "cut off are chosen",
        "download the files",
    ),
    Bad("a.txt", b"q\n", ": ", "unknown file type '.txt'", "to_json('a.jsonl'"),
    Bad("no-ending", b"q", ": ", "unknown file type ''", "to_json('no-ending.jsonl'"),
    Bad("split a.jsonl", lines(GOOD), ": ", "a file has no splits", "Leave out `split`.", options={"split": "train"}),
]

PACKED = [
    Bad("cut a.jsonl.gz", gzip.compress(lines(GOOD) * 99)[:-9], ": ", "damaged gzip file", AGAIN),
    Bad("tail a.jsonl.gz", gzip.compress(lines(GOOD)) + b"x", ": ", "damaged gzip file", AGAIN),
    Bad("no a.jsonl.gz", b"\0\1\2", ": ", "damaged gzip file", AGAIN),
    Bad("cut a.jsonl.bz2", bz2.compress(lines(GOOD) * 99)[:-9], ": ", "damaged bzip2 file", AGAIN),
    Bad("flip a.jsonl.bz2", bz2.compress(lines(GOOD))[:-20] + b"\0" * 20, ": ", "damaged bzip2 file", AGAIN),
    Bad("cut a.jsonl.xz", lzma.compress(lines(GOOD) * 99)[:-9], ": ", "damaged xz file", AGAIN),
    Bad("head a.jsonl.xz", lzma.compress(lines(GOOD))[:9], ": ", "damaged xz file", AGAIN),
    Bad("cut a.jsonl.zst", by_arrow("zstd", lines(GOOD) * 99)[:-9], ": ", "damaged zstd file", AGAIN),
    Bad("no a.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, ": ", "damaged zstd file", AGAIN),
    Bad("cut a.jsonl.lz4", by_arrow("lz4", lines(GOOD) * 99)[:-9], ": ", "damaged lz4 file", AGAIN),
    Bad("cut a.zip", zipped("a.jsonl", content=lines(GOOD) * 99)[:-9], ": ", "damaged zip file", AGAIN),
    Bad("two a.zip", zipped("a.jsonl", "b.jsonl", content=lines(GOOD)), ": ", "a zip file with 2 files", "Unpack"),
    Bad("none a.zip", zipped(".hidden", content=b"x"), ": ", "a zip file with 0 files in it", "Unpack it"),
    Bad("twice a.jsonl.gz", gzip.compress(gzip.compress(lines(GOOD))), ":1: ", "not UTF-8: byte 0x8b", "UTF-8"),
    Bad("packed a.parquet.gz", lambda path: path.write_bytes(gzip.compress(b"PAR1" + b"\0" * 40 + b"PAR1")), ": ",
        "this is a compressed Parquet file", "Unpack it"),
    Bad("pickle a.jsonl", b"\x80\x04N.", ": ", "this is a pickle, which might run code", "Save it as CSV"),
    Bad("page a.jsonl", b"<!DOCTYPE html><html>", ": ", "this is a web page", "Download the raw file"),
    Bad("pointer a.parquet", b"version https://git-lfs.github.com/spec/v1\n", ": ", "a pointer of Git LFS", "lfs pull"),
    Bad("book a.xlsx", zipped("xl/workbook.xml", content=b"<x/>"), ": ", "this is an Excel workbook", "Save it as CSV"),
]  # fmt: skip

HEADER = b"prompt,chosen,rejected\n"
TABLES = [
    Bad("open a.csv", HEADER + b'q,a,b\nq,"a,b\nq,a,b\n', ":3: ", "a quote opens here that is never", "Close"),
    Bad("quote a.csv", HEADER + b'q,a,b\nq,"a"x,b\n', ":3: ", "broken table", MEND),
    Bad("few a.csv", HEADER + b"q,a,b\nq,a\n", ":3: ", "2 cells, but the header has 3", MEND),
    Bad("many a.tsv", HEADER.replace(b",", b"\t") + b"q\ta\tb\tc\n", ":2: ", "4 cells, but the header has 3",
        "needs quotes around it"),
    Bad("twice a.csv", b"prompt,chosen,prompt\nq,a,q\n", ":1: ", "field 'prompt' is given more than once", "Rename"),
    Bad("latin1 a.csv", HEADER + b"q,\xe9,b\n", ":2: ", "not UTF-8: byte 0xe9 at position 3", "Save the file"),
    Bad("header a.csv", HEADER, ": ", "empty: it holds no row", ROWS_WANTED),
    Bad("blank a.csv", HEADER + b"q,a,b\nq,,b\n", ":3: ", "field 'chosen': is null", MEND),
    Bad("score a.csv", b"prompt,chosen,rejected,margin\nq,a,b,1\nq,a,b,x\n", ":3: ", "expected a number, found", MEND),
]  # fmt: skip

PARQUET = [
    Bad("empty.parquet", b"", ": ", "not a readable Parquet file (after row 0)", AGAIN),
    Bad("json a.parquet", lines(GOOD), ": ", "not a readable Parquet file", AGAIN),
    Bad("magic a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", ": ", "not a readable Parquet file", AGAIN),
    Bad("cut a.parquet", parquet(GOOD, change=lambda b: b[:-20]), ": ", "not a readable Parquet file", AGAIN),
    Bad("rows a.parquet", parquet(GOOD, GOOD | {"chosen": ""}), ":row 2: ", "field 'chosen': empty response", MEND),
    Bad("bytes a.parquet", parquet({**GOOD, "chosen": b"\xff"}), ":row 1: ", "found a bytes", FIRST,
        options={"format": "explicit"}),
    Bad("cut a.arrow", b"ARROW1\0\0\xff\xff", ": ", "not a readable Arrow file", AGAIN),
    Bad("json a.arrow", lines(GOOD), ": ", "not a readable Arrow file", AGAIN),
    Bad("no-rows a.parquet", lambda path: pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path), ": ",
        "empty: it holds no row", ROWS_WANTED),
]  # fmt: skip

FOLDERS = [
    Bad("nothing", lambda path: path.mkdir(), ": ", "no data set that `save_to_disk` wrote", "To read the files in it"),
    Bad("head set", folder(README__md="---\nconfigs: [\n---\n", a__jsonl="{}"), "/README.md: ", "cannot be", "Mend"),
    Bad("outside set", folder(README__md="---\nconfigs:\n- data_files: ../*\n---\n", a__jsonl="{}"), "/README.md: ",
        "names a file outside of its folder: ../*", "Name the files"),
    Bad("splits set", folder(train__jsonl="{}", test__jsonl="{}"), ", split: ", "the splits are test, train",
        "split train"),
    Bad("copies set", folder(a__jsonl="{}", a__csv="prompt"), ": ", "the same rows may be here twice", "Name the one"),
    Bad("tables set", folder(a__xlsx="x"), ": ", "no file of rows is in it; not read are a.xlsx", "To read the files"),
    Bad("state saved", saved(put("state.json", "{")), "/state.json: ", "damaged data set", "Copy it again"),
    Bad("info saved", saved(put("dataset_info.json", "[")), ": ", "damaged data set", "Copy it again"),
    Bad("arrow saved", saved(cut("data-00000-of-00001.arrow")), ": ", "damaged data set", "Copy it again"),
    Bad("outside saved", saved(replace("state.json", "data-0", "../data-0")), "/state.json: ",
        "names a file outside of its folder: ../data-0", "do not use it"),
    Bad("split saved", saved(lambda path: None), ": ", "one split, unnamed; 'train' was asked", "Leave out `split`.",
        options={"split": "train"}),
]  # fmt: skip

FILES = [*JSON_LINES, *PACKED, *TABLES, *PARQUET, *FOLDERS]
