"""Commands that run under a fault, and what they must leave."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_rlhf.cli.throughput import without_throughput
from reliability.fault_parts import DEMONSTRATIONS, Server, at_step, baselines, ppo, scores
from reliability.processes import QUIET, run


class Runs:
    """Runs commands under faults, in folders below one.

    Args:
        out: Folder for the runs, each with its log.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.base = out / "base"
        self._undisturbed: dict[str, bytes] = {}

    # ------------------------------------------------------------------ commands

    def prepare(self) -> None:
        """Write the models and the store that the faulty runs start from."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self._must(["world", str(self.base), "--preset", "tiny"], 0)
        self._must(self.predict("store"), 0)

    def fit(self, name: str, recipe: str, options: dict[str, Any], *more: str) -> list[str]:
        """Words of a training run in a folder of this name."""
        return self._command("fit", name, recipe, options, *more)

    def predict(self, name: str, *more: str) -> list[str]:
        """Words of a run that writes baselines."""
        return self._command("predict", name, "baselines", baselines(self.base, self.out / name / "store"), *more)

    def _command(self, command: str, name: str, recipe: str, options: dict[str, Any], *more: str) -> list[str]:
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        given = (
            json.dumps(options).replace("${base}", str(self.base)).replace("${store}", str(self.out / "store/store"))
        )
        (folder / "options.yaml").write_text(given)
        configs = (
            "-c",
            f"configs/policy/{recipe}.yaml",
            "-c",
            "configs/trainer/cpu.yaml",
            "-c",
            f"{folder}/options.yaml",
        )
        where = ["--trainer.default_root_dir", str(folder)]
        handover = ["--export.directory", str(folder / "model")] if command == "fit" else []
        return [command, *configs, *where, *handover, *(more or QUIET)]

    def run(self, words: list[str], prepare: Callable[[], None] | None = None) -> tuple[int, str]:
        """Run a command; returns its exit code and what it has said."""
        log = self.out / "command.log"
        log.unlink(missing_ok=True)
        code = run(words, log, prepare, seconds=240.0)
        return code, log.read_text(errors="replace")

    def _must(self, words: list[str], code: int, message: str = "", prepare: Callable[[], None] | None = None) -> str:
        """Run a command that has to end with this code and say this; returns the line that it says."""
        found, said = self.run(words, prepare)
        lines = [line for line in said.splitlines() if re.search(message, line)]
        if found != code or (message and not lines):
            raise AssertionError(f"exit code {found} instead of {code}, or no {message!r} in: …{said[-1500:]}")
        if code and "Traceback (most recent call last)" in said:
            raise AssertionError(f"a traceback instead of a message: …{said[-1500:]}")
        return lines[-1] if message else ""

    def _goes_on(self, name: str, words: list[str], recipe: str) -> None:
        """The run comes to the end that it has undisturbed: all metrics, the exported weights."""
        checkpoint = self.out / name / "checkpoints" / "last.ckpt"
        self._must([*words, *(("--ckpt_path", str(checkpoint)) if checkpoint.exists() else ())], 0)
        self._same(name, recipe)

    def _same(self, name: str, recipe: str) -> None:
        if recipe not in self._undisturbed:
            options = DEMONSTRATIONS if recipe == "sft" else ppo(scores("local"))
            self._must(self.fit(f"undisturbed_{recipe}", recipe, options), 0)
            self._undisturbed[recipe] = _outcome(self.out / f"undisturbed_{recipe}")
        if _outcome(self.out / name) != self._undisturbed[recipe]:
            raise AssertionError(f"{self.out / name} does not hold what an undisturbed run leaves")

    def _server(self, behaviour: Any, message: str, refused: bool = False, as_judge: bool = False) -> str:
        """PPO against a server that misbehaves, and goes on once it is mended."""
        name = f"server_{behaviour.__name__}{'_judge' * as_judge}"
        with Server(behaviour, after=3) as server:
            judge = scores(server.url) if as_judge else None
            options = ppo(scores("local") if as_judge else scores(server.url), judge)
            words = self.fit(name, "ppo", options)
            said = self._must(words, 1, message)
            if refused != any(self.out.glob(f"{name}/refused/step-*.json")):
                raise AssertionError("not written aside" if refused else "written aside")
            server.mend()
            if as_judge:
                checkpoint = self.out / name / "checkpoints" / "last.ckpt"
                self._must([*words, "--ckpt_path", str(checkpoint)], 0)
            else:
                self._goes_on(name, words, "ppo")
        return said

    def _same_store(self, name: str, words: list[str]) -> None:
        self._must(words, 0)
        parts = [
            {path.name: path.read_bytes() for path in (self.out / each / "store").iterdir()} for each in (name, "store")
        ]
        if parts[0] != parts[1]:
            raise AssertionError("another store than without the fault")

    def _some_checkpoint(self, name: str) -> Path:
        self._must(
            self.fit(name, "sft", DEMONSTRATIONS), 143, "", at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        )
        return self.out / name / "checkpoints" / "last.ckpt"

    def _two(
        self, name: str, first: bool, signum: int = signal.SIGKILL, message: str = "another process of this run"
    ) -> str:
        """Two processes, one of which gets a signal: the other has to end with a message, and the run to go on."""
        both = ["--trainer.devices", "2", "--trainer.strategy", "ddp", *QUIET]
        words = self.fit(name, "sft", DEMONSTRATIONS, *both)
        log, checkpoint = self.out / f"{name}.log", self.out / name / "checkpoints" / "last.ckpt"
        main = self._start_two([*words, "--trainer.max_epochs", "1000"], log)
        try:
            _until(lambda: checkpoint.exists() or main.poll() is not None, 180)
            if main.poll() is not None or not checkpoint.exists():
                raise AssertionError(f"it did not begin: …{log.read_text()[-1500:]}")
            child = children(main.pid)[0]
            killed, other = (main.pid, child) if first else (child, main.pid)
            begin = time.monotonic()
            os.kill(killed, signum)
            code = main.wait(60)
            _until(lambda: not _alive(other), 60)
            seconds = time.monotonic() - begin
            if _alive(other):
                raise AssertionError("the other process went on for a minute")
        finally:
            with contextlib.suppress(OSError):
                os.killpg(main.pid, signal.SIGKILL)
        lines = [line for line in log.read_text().splitlines() if message in line]
        if not lines or code == 0 or (signum == signal.SIGTERM and code != 143):
            raise AssertionError(f"exit code {code}, no message in: …{log.read_text()[-2500:]}")
        step = json.loads((self.out / name / "metrics.jsonl").read_text().splitlines()[-2])["step"]
        limit = ["--trainer.max_epochs", "1000", "--trainer.max_steps", str(step + 20)]
        if self._start_two([*words, *limit, "--ckpt_path", str(checkpoint)], log).wait(180):
            raise AssertionError(f"it does not go on: …{log.read_text()[-1500:]}")
        return f"{lines[-1]} (after {seconds:.0f} s)"

    def _start_two(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        """A command that Lightning can start once more for its second process."""
        script = self.out / "command.py"
        script.write_text(f"import sys\nsys.path.insert(0, {os.getcwd()!r})\nfrom lit_rlhf.cli import main\nmain()\n")
        with log.open("w") as file:
            return subprocess.Popen(
                [sys.executable, str(script), *words], stdout=file, stderr=file, start_new_session=True
            )


def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False


def _outcome(folder: Path) -> bytes:
    history = json.dumps(without_throughput((folder / "metrics.jsonl").read_text("utf-8"))).encode()
    return history + (folder / "model" / "model.safetensors").read_bytes()


def flip(path: Path, at: float) -> None:
    """Change one bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
