"""Rows of `datasets` folders on disk and of data sets on the Hub. The library is imported only when used."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.splits import choose_split

_CONNECT_SECONDS = 3.0
_AGAIN = "Copy it again, or write it anew with `save_to_disk`."


def folder_rows(folder: str, split: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    Raises:
        DataError: If the folder is no such data set, is damaged, or the split is missing or not named.
    """
    import datasets

    _check_names(Path(folder))
    try:
        data = datasets.load_from_disk(folder)
    except Exception as error:  # a damaged folder raises anything from KeyError to ArrowInvalid
        raise DataError(f"damaged data set: {_reason(error)}", folder, _AGAIN) from error
    yield from _rows(_choose(data, split, folder), folder)


def hub_rows(identifier: str, split: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of a Hub data set, ``owner/name`` or ``owner/name:config``.

    Without a network it gives up after seconds, where the library would go on trying.

    Raises:
        DataError: If the Hub cannot be reached, or the data set, its config or its split is not there.
    """
    import datasets
    from datasets import config as settings

    if not settings.HF_HUB_OFFLINE and not _reachable(settings.HF_ENDPOINT):
        hint = "Name a local file, or set HF_HUB_OFFLINE=1 to use the copy of an earlier download."
        message = f"no such file here, and the Hub cannot be reached at {settings.HF_ENDPOINT}"
        raise DataError(message, identifier, hint)
    name, _, configuration = identifier.partition(":")
    try:
        data = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the library's errors share no base class
        raise DataError(
            f"no such file here, and the Hub says: {_reason(error)}", identifier, _named(error, name)
        ) from error
    yield from _rows(_choose(data, None, identifier) if split is None else data, identifier)


def check_model(identifier: str, meant: str = "") -> None:
    """Refuse a model of the Hub that can be had neither from there nor from an earlier download.

    Args:
        identifier: ``owner/name``, or a bare name.
        meant: A hint at folders that may have been meant.

    Raises:
        DataError: After seconds, where the library would go on trying for a minute; at once if the Hub can have no
            model of that name.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        here = (try_to_load_from_cache(identifier, name) for name in ("config.json", "tokenizer_config.json"))
        if any(isinstance(file, str) for file in here) or constants.HF_HUB_OFFLINE:
            return
    except ValueError:  # what its names are made of
        hint = meant or "Give a Hugging Face directory or a Hub id."
        raise DataError("no such folder, and no name that the Hub knows", identifier, hint) from None
    if not _reachable(constants.ENDPOINT):
        hint = meant or "Name the folder of a model that is here; `lit-rlhf world FOLDER` writes a small random one."
        raise DataError(f"no such folder here, and the Hub cannot be reached at {constants.ENDPOINT}", identifier, hint)


def _check_names(folder: Path) -> None:
    """Refuse a data set whose own lists of files and splits lead out of its folder."""
    listed = {folder / "dataset_dict.json": "splits"}
    listed |= dict.fromkeys([folder / "state.json", *folder.glob("*/state.json")], "_data_files")
    for path, entry in listed.items():
        try:
            found = json.loads(path.read_text("utf-8"))[entry] if path.exists() else []
            names = [item if entry == "splits" else item["filename"] for item in found]
            outside = [name for name in names if name != Path(name).name or name in ("", ".", "..")]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"damaged data set: {_reason(error)}", str(path), _AGAIN) from error
        if outside:
            hint = "Such a file was not written by `save_to_disk`; do not use it."
            raise DataError(f"names a file outside of its folder: {excerpt(str(outside[0]))}", str(path), hint)


def _choose(data: Any, split: str | None, where: str) -> Any:
    if isinstance(data, dict):
        return data[choose_split(data, split, where)]
    if split not in (None, data.split):
        message = f"this data set holds one split, {data.split or 'unnamed'}; '{split}' was asked for"
        raise DataError(message, where, "Leave out `split`.")
    return data


def _rows(data: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data.data.validate(full=True)  # texts that lie outside of a damaged table would end the process
    except Exception as error:
        raise DataError(f"damaged data set: {_reason(error)}", where, _AGAIN) from error
    # Pictures and sounds would be opened from wherever the data says, be it another file or the network.
    media = [name for name, feature in data.features.items() if _opens_files(feature)]
    rows = iter(data.remove_columns(media).with_format(None))  # as plain values, whatever format it was saved with
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # decoding a damaged table
            raise DataError(f"damaged data set: {_reason(error)}", f"{where}:row {number + 1}", _AGAIN) from error
        number += 1
        yield f"{where}:row {number}", row


def _opens_files(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_opens_files, feature.values()))
    if isinstance(feature, list):
        return any(map(_opens_files, feature))
    inner = getattr(feature, "feature", None)
    return hasattr(feature, "decode") or (inner is not None and _opens_files(inner))


def _reachable(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # a direct connection would tell nothing
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _named(error: Exception, name: str) -> str:
    """The configs that an error of the library lists, where it says that one has to be named."""
    found = re.search(r"(?:available configs|Available): \[(.*?)\]", str(error))
    return f"Name one of its configs, as {name}:CONFIG; there are {excerpt(found[1], 400)}." if found else ""


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0] if lines else 'no reason given'} ({type(error).__name__})"
