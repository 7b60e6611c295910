"""Folders of data files, as the Hub's command line leaves them: the files of one split of one config.

Configs are told from the head of ``README.md`` where it lists their files, else from the folders in which files lie;
splits from the same list, else from the names of files and folders, such as ``train-00000-of-00001.parquet``.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_rlhf.data.errors import DataError, excerpt
from lit_rlhf.data.fields import listed
from lit_rlhf.data.opening import PACKED_NAME, READABLE
from lit_rlhf.data.splits import choose_split, is_split, split_word

Splits = dict[str, list[str]]
"""Files by the split that they belong to; those whose name tells none stand under an empty one."""

_DATA_NAME = re.compile(r"\.(jsonl|ndjson|jsonlines|json|csv|tsv|tab|parquet|arrow|feather)$", re.IGNORECASE)
_LIKE_DATA = re.compile(
    r"\.(txt|xlsx?|tar|tgz|rar|7z|pkl|pickle|npy|npz|h5|hdf5|db|sqlite3?|orc|avro|msgpack|xml)$", re.IGNORECASE
)
_ABOUT_DATA = {
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json", "metadata.json",
    "package.json", "requirements.txt", "license.txt", "readme.txt", "notice.txt", "citation.txt",
}  # fmt: skip
_NEUTRAL = ("data", "dataset")  # names of folders that name no config
_COUNT = re.compile(r"\d+|v\d+|of|(part|shard|chunk|file)s?\d*|[0-9a-f]{16}", re.IGNORECASE)
_SAVED = ("dataset_dict.json", "state.json")
_ELSE = "Or name the files instead of the folder."


def data_files(folder: str, config: str | None = None, split: str | None = None) -> tuple[list[str], list[str]]:
    """Find the files of one split of one config of a folder.

    Args:
        folder: The folder.
        config: One of several groups of files in it.
        split: One of several splits of the config. Files without a split's name are ``train``, as on the Hub.

    Returns:
        The files in order, and what else in the folder looks like data, but is no part of any config.

    Raises:
        DataError: If there are none, or several configs or splits and none is named; the message lists them.
    """
    root = Path(folder)
    configs, aside = _by_names(root)
    if any((declared := _declared(root)).values()):
        named = {name: _matched(root, each) if each else configs.get(name, {}) for name, each in declared.items()}
        taken = {file for splits in named.values() for files in splits.values() for file in files}
        found = (file for splits in configs.values() for files in splits.values() for file in files)
        aside += [os.path.relpath(file, folder) for file in found if file not in taken]
        configs = named
    if not configs:
        also = f"; not read are {listed(aside)}" if aside else ""
        message = f"this folder is no data set that `save_to_disk` wrote, and no file of rows is in it{also}"
        raise DataError(message, folder, f"To read the files in it, let them be {READABLE}.")
    name = _choose_config(configs, config, folder)
    splits = _with_names(configs[name])
    if not splits:
        hint = f"Download the rest. {_ELSE}"
        raise DataError(f"README.md lists files of config '{excerpt(name)}', but none of them is here", folder, hint)
    where = folder if config is None else f"{folder}:{name}"
    return _in_order(splits[choose_split(splits, split, where)], folder), aside


def folder_and_config(path: str) -> tuple[str, str | None] | None:
    """The folder that a path names, and the config behind it as in ``FOLDER:config``; None if no folder is there."""
    if os.path.isdir(path):
        return path, None
    folder, _, config = path.rpartition(":")
    return (folder, config) if config and os.path.isdir(folder) else None


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any(os.path.exists(os.path.join(folder, name)) for name in _SAVED)


def _choose_config(configs: dict[str, Splits], config: str | None, folder: str) -> str:
    names = sorted(configs)
    if config is None and len(names) == 1:
        return names[0]
    if config in configs:
        return config
    message = "none was named" if config is None else f"there is no config '{excerpt(config)}'"
    hint = (
        f"Name one of them: {folder.rstrip('/')}:{names[0]}" if len(names) > 1 else f"Name the folder alone: {folder}"
    )
    raise DataError(f"{message}; the configs are {listed(names)}", f"{folder}, config", hint)


def _with_names(splits: Splits) -> Splits:
    """The files whose name tells no split: ``train`` if there are no others, else each goes by its own name."""
    if "" not in splits:
        return splits
    if len(splits) == 1:
        return {"train": splits[""]}
    named = {name: list(files) for name, files in splits.items() if name}
    for file in splits[""]:
        named.setdefault(_without_count(file) or "others", []).append(file)
    return named


def _in_order(files: list[str], folder: str) -> list[str]:
    """The files by name, of which none may be a copy of another as another kind of file."""
    by_stem: dict[str, str] = {}
    for file in sorted(files):
        other = by_stem.setdefault(_stem(file), file)
        if other != file:
            both = f"{os.path.relpath(other, folder)} and {os.path.relpath(file, folder)}"
            raise DataError(f"the same rows may be here twice, in {both}", folder, f"Name the one to read: {file}")
    return sorted(files)


# ---------------------------------------------------------------------- by the names of files and folders


def _by_names(root: Path) -> tuple[dict[str, Splits], list[str]]:
    """The files below a folder by config and split; and those that look like data, but are of no kind that is read."""
    configs: dict[str, Splits] = {}
    aside: list[str] = []
    for path in _walk(root):
        relative = path.relative_to(root)
        if _is_data(path.name):
            config, split = _place(relative)
            configs.setdefault(config, {}).setdefault(split, []).append(str(path))
        elif _LIKE_DATA.search(path.name) or PACKED_NAME.search(path.name):
            aside.append(str(relative))
    return configs, aside


def _walk(root: Path) -> Iterator[Path]:
    """The files below a folder, but for hidden ones and those that only tell about the data."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        for name in sorted(names):
            if name[0] not in "._" and name.lower() not in _ABOUT_DATA:
                yield Path(folder, name)


def _place(relative: Path) -> tuple[str, str]:
    """Config and split of a file. A split in its own name comes before one in the names of the folders around it."""
    folders = [name for name in relative.parts[:-1] if name.lower() not in _NEUTRAL]
    base = _without_count(relative.name)
    split = base if is_split(base) else split_word(base)
    inner = next((name for name in reversed(folders) if is_split(name)), None)
    if inner is not None:
        folders.remove(inner)
    return "/".join(folders) or "default", split or inner or ""


def _is_data(name: str) -> bool:
    return bool(_DATA_NAME.search(PACKED_NAME.sub("", name)))


def _stem(file: str) -> str:
    return _DATA_NAME.sub("", PACKED_NAME.sub("", file))


def _without_count(file: str) -> str:
    """A file's name without its ending, and without what counts the parts of a data set: ``-00000-of-00001``."""
    parts = re.split(r"([-_. ]+)", Path(_stem(file)).name)
    while parts and _COUNT.fullmatch(parts[-1]):
        del parts[-2:]
    return "".join(parts).rstrip("0123456789")


# ---------------------------------------------------------------------- by the head of README.md


def _declared(root: Path) -> dict[str, dict[str, list[str]]]:
    """Patterns of files by config and split, as the head of a ``README.md`` lists them; a config may list none."""
    try:
        text = (root / "README.md").read_text("utf-8", errors="replace")
    except OSError:
        return {}
    head = re.match(r"\ufeff?---[ \t]*\n(.*?)^---", text, re.DOTALL | re.MULTILINE)
    if head is None:
        return {}
    import yaml

    try:
        content: Any = yaml.safe_load(head[1])
        configs = content.get("configs") or [] if isinstance(content, dict) else []
        return {str(each.get("config_name", "default")): dict(_patterns(each)) for each in configs}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or ["?"])[0]
        message = f"the configs in its head cannot be read: {type(error).__name__}: {reason}"
        raise DataError(message, str(root / "README.md"), f"Mend it. {_ELSE}") from error


def _patterns(config: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    files, inside = config.get("data_files"), config.get("data_dir")
    if files is None and inside is not None:
        yield "", [f"{inside}/**/*"]
    if files is None:
        return
    if isinstance(files, dict):
        pairs = list(files.items())
    elif isinstance(files, list) and files and isinstance(files[0], dict):
        pairs = [(each["split"], each["path"]) for each in files]
    else:
        pairs = [("train", files)]
    for split, paths in pairs:
        names = [paths] if isinstance(paths, str) else list(paths)
        yield str(split), [f"{inside}/{name}" if inside else str(name) for name in names]


def _matched(root: Path, patterns: dict[str, list[str]]) -> Splits:
    """The files that are here; where only their folder is listed, their names tell the split."""
    found: Splits = {}
    for split, names in patterns.items():
        for path in dict.fromkeys(path for name in names for path in _matches(root, name)):
            if split:
                found.setdefault(split, []).append(str(path))
            elif _is_data(path.name):
                found.setdefault(_place(path.relative_to(root))[1], []).append(str(path))
    return found


def _matches(root: Path, pattern: str) -> list[Path]:
    if os.path.isabs(pattern) or ".." in Path(pattern).parts or "://" in pattern:
        message = f"names a file outside of its folder: {excerpt(pattern)}"
        raise DataError(message, str(root / "README.md"), "Name the files to read instead of the folder.")
    try:
        return sorted(path for path in root.glob(pattern) if path.is_file())
    except ValueError:  # an empty pattern
        return []
