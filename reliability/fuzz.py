"""Fuzzing of every reader and store: ``python -m reliability.fuzz --out FOLDER [--inputs 1000000]``.

Inputs are mutations of well-formed ones, guided by coverage where atheris is installed (the extra ``fuzz``). Two
things must not happen: an error other than `DataError`, and an accepted input that is not what is written there; what
that means is told by each target in `reliability.fuzz_targets`. Both count as crashes. ``fuzz.json`` has all figures,
and each input that failed lies beside it. The exit status is 1 if there was one.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reliability.fuzz_mutation import mutate

SECONDS_PER_INPUT = 20.0
SECONDS_WITHOUT_NEWS = 300.0  # of a process: library code that hangs hears no signal
MEMORY = 8 << 30  # bytes of address space per process: what asks for more is to be refused, not to fill the machine
LONGEST = 1 << 16
KEPT = 500  # accepted inputs that further ones are made from
FAILURES = 20  # of one reader that are kept


class Worker:
    """Reads the inputs of one target and counts what became of them.

    Args:
        name: Of the target.
        inputs: How many to read.
        result: JSON file with the counts; inputs that failed are written beside it.
    """

    def __init__(self, name: str, inputs: int, result: Path) -> None:
        from reliability.fuzz_targets import TARGETS

        self.name, self.inputs, self.result = name, inputs, result
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, dict[str, str]] = {}
        self.target = TARGETS[name]
        self.seeds = self.target.seeds()
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.read = self.target.make(Path(self.folder.name))
        self.last = os.open(result.with_suffix(".last"), os.O_RDWR | os.O_CREAT)  # outlives a process that dies

    def one(self, data: bytes) -> bool:
        """Read one input; whether it was accepted."""
        from lit_rlhf.data.errors import DataError

        self.counts["inputs"] += 1
        os.pwrite(self.last, data, 0)
        os.ftruncate(self.last, len(data))
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
        try:
            self.read(data)
            outcome = "accepted"
        except DataError as error:
            outcome = "refused"
            str(error).encode("utf-8")  # it can be printed
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust code is no Exception
            outcome = "crashes"
            self._keep(data, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.counts[outcome] += 1
        if self.counts["inputs"] % 500 == 0:
            self.save()
        return outcome == "accepted"

    def _keep(self, data: bytes, error: BaseException) -> None:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
        kind = f"{type(error).__name__} {place}"
        if kind in self.failures or len(self.failures) >= FAILURES:
            return
        name = f"{self.result.stem}-{hashlib.sha256(data).hexdigest()[:12]}.input"
        (self.result.parent / name).write_bytes(data)
        self.failures[kind] = {"reader": self.name, "error": f"{kind}: {error}"[:500], "input": name}

    def save(self) -> None:
        """Write the counts."""
        partial = self.result.with_suffix(".partial")
        partial.write_text(json.dumps({**self.counts, "failures": list(self.failures.values())}))
        partial.rename(self.result)

    def mutations(self, seed: int) -> None:
        """Mutations of the seeds and of what was accepted, by chance alone."""
        rng = random.Random(f"{self.name} {seed}")
        pool = list(self.seeds)
        for data in self.seeds[: self.inputs]:
            self.one(data)
        while self.counts["inputs"] < self.inputs:
            data = mutate(rng.choice(pool), rng)[:LONGEST]
            if self.one(data):
                pool.append(data)
                if len(pool) > KEPT:
                    pool.pop(rng.randrange(len(self.seeds), len(pool)))

    def guided(self, seed: int, atheris: Any) -> None:
        """The same mutations; libFuzzer keeps what reaches new code. Ends the process."""

        def one(data: bytes) -> None:
            if self.counts["inputs"] >= self.inputs:
                self.end()
            self.one(data)

        def change(data: bytes, longest: int, number: int) -> bytes:
            rng = random.Random(number)
            data = rng.choice(self.seeds) if rng.random() < 0.4 else data  # or most would be far from well formed
            return atheris.Mutate(data, longest) if rng.random() < 0.2 else mutate(data, rng)[:longest]

        corpus = Path(self.folder.name) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(self.seeds):
            (corpus / str(number)).write_bytes(data)
        words = [
            "fuzz",
            f"-seed={seed + 1}",
            f"-max_len={LONGEST}",
            "-verbosity=0",
            "-mutate_depth=1",
            "-timeout=0",
            "-rss_limit_mb=0",
        ]
        atheris.Setup([*words, str(corpus)], one, custom_mutator=change)
        atheris.Fuzz()

    def end(self) -> None:
        """Write the counts, clear up and leave the process, which libFuzzer would go on with."""
        self.save()
        self.folder.cleanup()
        os._exit(0)


def work(name: str, inputs: int, seed: int, result: Path) -> None:
    """Run one worker in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGALRM, _too_long)
    try:
        import atheris
    except ImportError:
        atheris = None
    with atheris.instrument_imports(include=["lit_rlhf.data"]) if atheris else contextlib.nullcontext():
        worker = Worker(name, inputs, result)
    if atheris:
        worker.guided(seed, atheris)
    worker.mutations(seed)
    worker.end()


def _too_long(signum: int, frame: Any) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_INPUT:g} s")


def fuzz(out: Path, inputs: int, jobs: int = 2, seed: int = 0, readers: list[str] | None = None) -> dict[str, Any]:
    """Fuzz all readers, each in processes of its own.

    Args:
        out: Folder for ``fuzz.json`` and for inputs that failed.
        inputs: How many, over all readers.
        jobs: Processes at the same time.
        seed: Of the mutations.
        readers: Names of targets; by default all.

    Returns:
        ``inputs``, ``refused``, ``accepted`` and ``crashes``, in sum and by reader under ``readers``; ``failures``.
    """
    from reliability.fuzz_targets import TARGETS

    out.mkdir(parents=True, exist_ok=True)
    names = readers or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    wanted = {name: max(1, -(-inputs * TARGETS[name].share // total)) for name in names}
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: _reader(out, name, wanted[name], seed), names), strict=True))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    failures = [failure for counts in found.values() for failure in counts.pop("failures")]
    kinds = ("inputs", "refused", "accepted", "crashes")
    result = {
        **{kind: sum(counts[kind] for counts in found.values()) for kind in kinds},
        "engine": "atheris" if _has_atheris() else "mutations",
        "seed": seed,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "readers": found,
        "failures": failures,
    }
    partial = out / ".fuzz.json.partial"
    partial.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(out / "fuzz.json")
    return result


def _reader(out: Path, name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Fuzz one reader; a process that dies or hangs is a crash, and another one goes on."""
    counts: dict[str, Any] = {"inputs": 0, "refused": 0, "accepted": 0, "crashes": 0, "failures": []}
    result = out / f"{name.replace(' ', '-').replace(',', '')}.json"
    last = result.with_suffix(".last")
    for attempt in range(FAILURES):
        words = ["--reader", name, "--inputs", str(inputs - counts["inputs"]), "--seed", str(seed + 1000 * attempt)]
        ended = _watched([sys.executable, "-m", "reliability.fuzz", "--out", str(result), *words, "--worker"], last)
        for kind, value in (json.loads(result.read_text()) if result.exists() else {}).items():
            counts[kind] += value
        result.unlink(missing_ok=True)
        if not ended:
            last.unlink(missing_ok=True)
            break
        counts["inputs"] += 1
        counts["crashes"] += 1
        kept = out / f"{result.stem}-{attempt}.input"
        if last.exists():
            last.rename(kept)
        counts["failures"].append({"reader": name, "error": ended, "input": kept.name})
    return counts


def _watched(words: list[str], last: Path) -> str:
    """Run a worker to its end; what went wrong, if anything did."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        worker = subprocess.Popen(words, stdout=said, stderr=said, cwd=Path(__file__).parents[1])
        started = time.time()
        while True:
            try:
                worker.wait(5.0)
                break
            except subprocess.TimeoutExpired:
                if time.time() - max(last.stat().st_mtime if last.exists() else 0, started) > SECONDS_WITHOUT_NEWS:
                    worker.kill()
                    worker.wait()
                    return f"one input took more than {SECONDS_WITHOUT_NEWS:g} s"
        said.seek(0)
        return f"the process ended with {worker.returncode}: {said.read()[-400:]}" if worker.returncode else ""


def _has_atheris() -> bool:
    from importlib.util import find_spec

    return find_spec("atheris") is not None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder for fuzz.json")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all readers")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only this one; may be repeated")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.reader[0], options.inputs, options.seed, options.out)
        return
    result = fuzz(options.out, options.inputs, options.jobs, options.seed, options.reader)
    for name, counts in result["readers"].items():
        print(f"{name:32}{counts['inputs']:>9,}  refused {counts['refused']:>9,}  accepted {counts['accepted']:>9,}")
    for failure in result["failures"]:
        print(f"{failure['reader']}: {failure['error']}  {failure['input']}")
    print(f"{result['inputs']:,} inputs, {result['crashes']} crashes, {result['cpu_seconds']:.0f} CPU seconds")
    sys.exit(1 if result["crashes"] else 0)


if __name__ == "__main__":
    main()
