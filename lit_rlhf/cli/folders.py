"""The folders of an experiment's stages: what a changed stage wrote before is kept beside the new, never lost."""

import json
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_rlhf.cli.keys import writes_elsewhere
from lit_rlhf.cli.plan import Stage

_NOTHING = {"key", "stage.yaml", "wandb"}
"""What a stage's folder holds before the stage itself has written anything."""


def number_of_process() -> int:
    """This process's number among those of a run, also before they have met."""
    return rank_zero_only.rank  # type: ignore[attr-defined]


def done(stage: Stage) -> dict[str, Any] | None:
    """What the stage left when it finished with the present key; None where it has not."""
    path = stage.directory / "done.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text("utf-8"))
    return content if content["key"] == stage.key else None


@contextmanager
def own_folder(stage: Stage) -> Generator[None]:
    """The stage's folder with the present key, while the stage runs.

    A folder with another key moves aside, and one that was moved aside with the present key comes back. If the stage
    fails before it has written anything, the folder that it took the place of comes back too.
    """
    replaced = _make_way(stage)
    while number_of_process() and _key(stage.directory) != stage.key:  # the first process makes way for all
        time.sleep(0.1)
    try:
        yield
    except BaseException:
        if replaced is not None and {file.name for file in stage.directory.iterdir()} <= _NOTHING:
            _put_back(stage, replaced)
        raise


@rank_zero_only
def _make_way(stage: Stage) -> Path | None:
    """Put the right folder in place; returns where the one went whose place it took."""
    aside = None
    if stage.directory.exists() and _key(stage.directory) != stage.key:
        aside = _free_name(stage.directory)
        stage.directory.rename(aside)
        rank_zero_info(f"stage {stage.name} has changed; what it wrote before is kept in {aside}")
    # Files outside the folder may be another run's by now: such a stage runs anew.
    if not stage.directory.exists() and not writes_elsewhere(stage.options, stage.directory, stage.command):
        earlier = [path for path in stage.directory.parent.glob(f"{stage.name}~*") if _key(path) == stage.key]
        if earlier:
            earlier[0].rename(stage.directory)
            rank_zero_info(f"what {earlier[0]} held fits these options and is used again")
    stage.directory.mkdir(parents=True, exist_ok=True)
    if _key(stage.directory) != stage.key:
        partial = stage.directory / ".key.partial"  # a folder with half a key would be taken for another stage's
        partial.write_text(stage.key)
        partial.rename(stage.directory / "key")
    return aside


@rank_zero_only
def _put_back(stage: Stage, replaced: Path) -> None:
    shutil.rmtree(stage.directory)
    replaced.rename(stage.directory)
    rank_zero_info(f"nothing was written; {replaced} is {stage.directory} again")


def _key(folder: Path) -> str | None:
    mark = folder / "key"
    return mark.read_text() if mark.exists() else None


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}~{number}")).exists():
        number += 1
    return aside
