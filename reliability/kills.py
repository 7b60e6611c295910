"""SIGKILL at random moments of every kind of stage, and whether anything is lost: ``python -m reliability.kills``.

Each stage of ``kills.yaml`` runs to its end once. Then it runs again, is killed, goes on, is killed again, until it
comes to its end, which must be the same in every byte. Half of the kills come at a moment drawn from the stage's
duration, half right before a file is opened for writing, renamed or removed, drawn from all such events.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.processes import QUIET, preload, run, start, wait

EXPERIMENT = Path(__file__).with_name("kills.yaml")
TRIES = 4  # of a kill that comes too late
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_VOLATILE = (".png", ".html", ".ckpt", ".partial", ".count", ".yaml", "done.json", "key")


@dataclass
class Stage:
    """A stage as it runs undisturbed.

    Attributes:
        name: Of the stage.
        seconds: That it takes.
        writes: Events in which it touches a file of its run.
    """

    name: str
    seconds: float
    writes: int


class Kills:
    """Kills stages and compares what they leave.

    Args:
        out: Folder for the runs and the log.
        seed: Of the moments.
        experiment: The stages.
    """

    def __init__(self, out: Path, seed: int = 0, experiment: Path = EXPERIMENT) -> None:
        self.run, self.reference, self.log = out / "run", out / "reference", out / "kills.log"
        self.experiment, self.rng, self.out = experiment, random.Random(seed), out
        self.result: dict[str, Any] = {"kills_survived": 0, "rows": 0, "rows_lost": 0, "failures": [], "stages": {}}

    def measure(self, names: list[str]) -> list[Stage]:
        """Run the stages undisturbed, and keep what they write as the reference."""
        for folder in (self.run, self.reference):
            shutil.rmtree(folder, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        stages, counter = [], self.out / "writes.count"
        for name in names:
            begin = time.monotonic()
            code = run(self._words(name), self.log, lambda: _watch_writes(self.run, counter=counter))
            if code:
                raise RuntimeError(f"stage {name} ended with {code} undisturbed: see {self.log}")
            stages.append(Stage(name, time.monotonic() - begin, counter.stat().st_size))
            counter.unlink()
        shutil.copytree(self.run, self.reference)
        return stages

    def disturb(self, stage: Stage, kills: int) -> None:
        """Kill a stage so many times on its way, again from the start where it has come to its end before that."""
        survived = tried = 0
        told = {"kills": 0, "seconds": round(stage.seconds, 1), "writes": stage.writes}
        while survived < kills and tried < TRIES * kills:
            shutil.rmtree(self.run / stage.name)
            killed, code = 0, None
            while code is None or code == -signal.SIGKILL:
                tried += 1
                code = self._life(stage, killed + survived < kills, tried)
                killed += code == -signal.SIGKILL
            if code or not self._equal(stage):
                self.result["failures"].append(f"{stage.name}: ended with {code} after {killed} kills: see {self.log}")
                shutil.rmtree(self.run / stage.name)
                shutil.copytree(self.reference / stage.name, self.run / stage.name)
                break
            survived += killed
        told["kills"] = survived
        self.result["kills_survived"] += survived
        self.result["stages"][stage.name] = told

    def _life(self, stage: Stage, killed: bool, number: int) -> int | None:
        """Let it run until it ends or is killed; returns its exit code."""
        at_write = self.rng.randrange(stage.writes) if killed and number % 2 else None

        def prepare() -> None:
            check_whole(self.run / stage.name, self.reference / stage.name)
            _watch_writes(self.run, at_write)

        process = start(self._words(stage.name), self.log, prepare)
        moment = self.rng.uniform(0.0, stage.seconds)
        code = wait(process, moment if killed and at_write is None else 600.0)
        if code is None:
            os.kill(process, signal.SIGKILL)
            code = wait(process)
        return code

    def _words(self, name: str) -> list[str]:
        return ["run", str(self.experiment), "--out", str(self.run), "--only", name, "--", *QUIET]

    def _equal(self, stage: Stage) -> bool:
        """Whether every file is there with the same bytes; counts rows."""
        ours, theirs = (_contents(folder / stage.name) for folder in (self.run, self.reference))
        rows = {name: _rows(theirs[name]) for name in theirs if name.endswith(".jsonl")}
        kept = {name: _rows(ours.get(name, b"")) for name in rows}
        self.result["rows"] += sum(map(len, rows.values())) + _stored(self.reference / stage.name)
        lost = sum(len(set(rows[name]) - set(kept[name])) for name in rows)
        lost += max(0, _stored(self.reference / stage.name) - _stored(self.run / stage.name))
        self.result["rows_lost"] += lost
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if differing:
            self.result["failures"].append(f"{stage.name}: other bytes in {differing[:5]}")
        return not differing and not lost


def check_whole(folder: Path, reference: Path) -> None:
    """What a killed stage has left under its final name must be whole.

    Raises:
        RuntimeError: If some of it is not.
    """
    import torch

    from lit_rlhf.data.store import Store

    for path in folder.glob("checkpoints/*.ckpt"):
        torch.load(path, map_location="cpu", weights_only=True)
    for name in ("model", "table"):
        if (folder / name).exists() and _contents(folder / name) != _contents(reference / name):
            raise RuntimeError(f"{folder / name} is half written")
    for key in folder.glob("[!.]*/key.json"):
        if Store(key.parent).is_finished:
            Store(key.parent).rows()
        for part in key.parent.glob("part-*.parquet"):
            if part.read_bytes() != (reference / key.parent.name / part.name).read_bytes():
                raise RuntimeError(f"{part} is half written")
    if (folder / "done.json").exists():
        json.loads((folder / "done.json").read_text())


def _watch_writes(folder: Path, kill_at: int | None = None, counter: Path | None = None) -> None:
    """Count events in which this process touches a file below a folder; end at one of them as SIGKILL ends it."""
    seen, beginning = 0, str(folder)
    file = None if counter is None else os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def notice(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        if event == "open" and not (isinstance(details[2], int) and details[2] & _WRITES):
            return
        if not any(
            isinstance(each, str | bytes | os.PathLike) and os.fsdecode(each).startswith(beginning) for each in details
        ):
            return
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        if file is not None:
            os.write(file, b".")

    sys.addaudithook(notice)


def _contents(folder: Path) -> dict[str, bytes]:
    """Files that must be equal, by their names; of ``done.json`` only the result, of the history all but times."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(_VOLATILE) and not path.name.startswith(".")
    }
    if "metrics.jsonl" in found:
        from lit_rlhf.cli.throughput import without_throughput

        lines = without_throughput(found["metrics.jsonl"].decode())
        found["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    done = folder / "done.json"
    return found | ({"done": json.dumps(json.loads(done.read_text())["result"]).encode()} if done.exists() else {})


def _rows(content: bytes) -> list[bytes]:
    return content.splitlines()


def _stored(folder: Path) -> int:
    """Rows of all stores and tables in a stage's folder."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.rglob("part-*.parquet"))


def kill_all(out: Path, kills: int, seed: int = 0, names: list[str] | None = None) -> dict[str, Any]:
    """Kill every stage but the first, which writes the random model.

    Args:
        out: Folder for runs, log and ``kills.json``.
        kills: Over all stages; at least one each.
        seed: Of the moments.
        names: Stages to run; None takes all. What they build on has to be among them.

    Returns:
        ``kills_survived``, ``rows``, ``rows_lost``, ``failures`` and, by stage, ``kills``, ``seconds`` and ``writes``.
    """
    preload()
    begin, runner = time.monotonic(), Kills(out.resolve(), seed)
    stages = runner.measure(names or _names())
    for number, stage in enumerate(stages[1:]):
        share = kills * (number + 1) // (len(stages) - 1) - kills * number // (len(stages) - 1)
        runner.disturb(stage, max(1, share))
        print(f"{stage.name:20} {runner.result['stages'][stage.name]}", flush=True)
    runner.result["seconds"] = round(time.monotonic() - begin, 1)
    (out / "kills.json").write_text(json.dumps(runner.result, indent=2) + "\n")
    if not runner.result["failures"]:
        for folder in (runner.run, runner.reference):
            shutil.rmtree(folder)
    return runner.result


def _names() -> list[str]:
    from lit_rlhf.cli.plan import plan_stages, read_experiment

    spec = read_experiment(EXPERIMENT)
    return [stage.name for stage in plan_stages(spec["stages"], EXPERIMENT, Path("runs"), {"run": "runs", "seed": 0})]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reliability/kills"))
    parser.add_argument("--kills", type=int, default=60, help="over all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    result = kill_all(options.out, options.kills, options.seed, options.stage)
    print(json.dumps({name: result[name] for name in ("kills_survived", "rows", "rows_lost", "failures", "seconds")}))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
