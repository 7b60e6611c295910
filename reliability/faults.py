"""What fails outside of a run, one function per kind, and what the user then sees: ``python -m reliability.faults``.

Every fault is brought about for real. It passes if the command ends with the expected exit code and message, or waits
as documented, and if the run then goes on to the very end that it has without the fault.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from reliability.fault_parts import DEMONSTRATIONS, Server, at_step, nan_at, ppo, scores, small_disk, unwritable
from reliability.fault_runs import Runs, children, flip
from reliability.processes import QUIET, preload, start, wait


class Faults(Runs):
    """Every kind of fault; the docstring says what happens, the result is what the user reads."""

    # ------------------------------------------------------------------ signals

    def sigterm_while_training(self) -> str:
        """The step comes to its end, last.ckpt is written, exit code 143."""
        words = self.fit("sigterm", "sft", DEMONSTRATIONS)
        said = self._must(words, 143, "ended by SIGTERM", at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        self._goes_on("sigterm", words, "sft")
        return said

    def sigterm_while_sampling(self) -> str:
        """The parts that are written stay, exit code 143."""
        words = self.predict("sigterm_store")
        process = start(words, self.out / "command.log")
        while not (self.out / "sigterm_store/store/part-00001.parquet").exists():
            time.sleep(0.01)
        os.kill(process, signal.SIGTERM)
        if wait(process) != 143:
            raise AssertionError("no exit code 143")
        self._same_store("sigterm_store", words)
        return "ended by SIGTERM"

    def ctrl_c(self) -> str:
        """The step comes to its end, last.ckpt is written, exit code 130."""
        words = self.fit("ctrl_c", "sft", DEMONSTRATIONS)
        said = self._must(words, 130, "interrupted", at_step(7, lambda: os.kill(os.getpid(), signal.SIGINT)))
        self._goes_on("ctrl_c", words, "sft")
        return said

    # ------------------------------------------------------------------ disks

    def disk_full_at_a_checkpoint(self) -> str:
        """The checkpoint before it stays whole."""
        words = self.fit("full", "sft", DEMONSTRATIONS)
        with small_disk(self.out / "full" / "checkpoints", 900) as limit:
            said = self._must(words, 1, "cannot be written", limit)
        self._goes_on("full", words, "sft")
        return said

    def disk_full_at_the_export(self) -> str:
        """No half export; the run goes on from its last step."""
        words = self.fit("full_export", "sft", DEMONSTRATIONS, *QUIET)
        target = self.out / "small"
        with small_disk(target, 100) as limit:
            said = self._must([*words, "--export.directory", str(target / "model")], 1, "cannot be written", limit)
            if (target / "model").exists():
                raise AssertionError("half an export")
        self._goes_on("full_export", words, "sft")
        return said

    def disk_full_at_a_store(self) -> str:
        """The parts before it stay; the store is not finished."""
        words = self.predict("full_store")
        with small_disk(self.out / "full_store" / "store", 24) as limit:
            said = self._must(words, 1, "cannot be written", limit)
            if (self.out / "full_store" / "store" / "finished.json").exists():
                raise AssertionError("finished")
        self._same_store("full_store", words)
        return said

    def folder_read_only(self) -> str:
        """Refused before the first step."""
        (self.out / "closed").mkdir()
        words = self.fit("read_only", "sft", DEMONSTRATIONS)
        with unwritable(self.out / "closed") as folder:
            closed = [
                "--trainer.default_root_dir",
                str(folder / "run"),
                "--export.directory",
                str(folder / "run/model"),
            ]
            said = self._must([*words, *closed], 1, "cannot be written")
        self._goes_on("read_only", words, "sft")
        return said

    # ------------------------------------------------------------------ damaged files

    def checkpoint_truncated(self) -> str:
        """Refused; the run starts anew without it."""
        words = self.fit("truncated", "sft", DEMONSTRATIONS)
        checkpoint = self._some_checkpoint("truncated")
        os.truncate(checkpoint, checkpoint.stat().st_size // 2)
        said = self._must([*words, "--ckpt_path", str(checkpoint)], 1, "is no checkpoint|cannot be read")
        checkpoint.unlink()
        self._goes_on("truncated", words, "sft")
        return said

    def checkpoint_with_a_flipped_byte(self) -> str:
        """Refused; the run starts anew without it."""
        words = self.fit("flipped", "sft", DEMONSTRATIONS)
        checkpoint = self._some_checkpoint("flipped")
        flip(checkpoint, at=0.5)
        said = self._must([*words, "--ckpt_path", str(checkpoint)], 1, "damaged|is no checkpoint")
        checkpoint.unlink()
        self._goes_on("flipped", words, "sft")
        return said

    def checkpoint_of_another_model(self) -> str:
        """Refused, with the options that differ."""
        words = self.fit("other", "sft", DEMONSTRATIONS)
        checkpoint = self._some_checkpoint("other")
        other = self.fit("wider", "sft", DEMONSTRATIONS, "--model.init_args.optimizer.lr", "0.5", *QUIET)
        said = self._must([*other, "--ckpt_path", str(checkpoint)], 1, "other model options")
        self._goes_on("other", words, "sft")
        return said

    def store_with_a_flipped_byte(self) -> str:
        """Refused before the first step."""
        shutil.copytree(self.out / "store", self.out / "damaged", dirs_exist_ok=True)
        part = self.out / "damaged/store/part-00000.parquet"
        flip(part, at=0.5)
        reward = {"class_path": "ContrastiveReward", "init_args": {"inner": scores("local"), "store": f"{part.parent}"}}
        words = self.fit("on_damaged", "ppo", ppo(reward))
        said = self._must(words, 1, "damaged")
        flip(part, at=0.5)
        self._must(words, 0)
        return said

    def model_truncated(self) -> str:
        """Refused before the first step."""
        shutil.copytree(self.base, self.out / "short", dirs_exist_ok=True)
        weights = self.out / "short" / "model.safetensors"
        os.truncate(weights, weights.stat().st_size // 2)
        words = self.fit("of_short", "sft", DEMONSTRATIONS)
        said = self._must([*words, "--model.init_args.model", str(weights.parent)], 1, "model could be loaded")
        self._goes_on("of_short", words, "sft")
        return said

    # ------------------------------------------------------------------ W&B

    def wandb_unreachable(self) -> str:
        """After a minute at most the run is kept offline and trains; exit code 3."""
        away = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
        away["WANDB_INIT_TIMEOUT"] = "5"  # seconds instead of sixty
        words = self.fit("unreachable", "sft", DEMONSTRATIONS, *QUIET[2:])
        said = self._must(words, 3, "W&B: cannot be reached", lambda: os.environ.update(away))
        self._same("unreachable", "sft")
        return said

    def wandb_dies(self) -> str:
        """The run trains to its end without; exit code 3."""
        words = self.fit("wandb_dies", "sft", DEMONSTRATIONS, *QUIET[2:])
        said = self._must(words, 3, "W&B: its service has failed", at_step(5, _kill_wandb))
        self._same("wandb_dies", "sft")
        return said

    # ------------------------------------------------------------------ servers

    def reward_server_slow(self) -> str:
        """Waits for its timeout, asks again as often as it is told, then ends; nothing is lost."""
        return self._server(Server.slow, "no answer after 2 attempts")

    def reward_server_wrong(self) -> str:
        """An answer that is none is asked for again, then the run ends."""
        return self._server(Server.wrong, "no answer after 2 attempts|expected|gave ")

    def reward_server_gone(self) -> str:
        """Asked again as often as it is told, then the run ends."""
        return self._server(Server.gone, "no answer after 2 attempts")

    def reward_server_busy(self) -> str:
        """Waits, and goes on as if nothing had been: exit code 0."""
        with Server(Server.busy, after=2) as server:
            self._must(self.fit("busy", "ppo", ppo(scores(server.url))), 0)
        self._same("busy", "ppo")
        return "no message: asked again after a moment"

    def reward_not_finite(self) -> str:
        """A server that answers NaN ends the run; the batch is written aside."""
        return self._server(Server.nan, "gave nan", refused=True)

    def judge_gone(self) -> str:
        """As a reward server."""
        return self._server(Server.gone, "no answer after 2 attempts", as_judge=True)

    # ------------------------------------------------------------------ numbers

    def loss_not_finite(self) -> str:
        """The step is refused, the batch written aside, the run ends; it goes on once the cause is gone."""
        words = self.fit("nan", "sft", DEMONSTRATIONS)
        said = self._must(words, 1, "loss nan", nan_at(6))
        names = sorted(path.name for path in (self.out / "nan" / "refused").iterdir())
        if names != ["step-6.json", "step-6.safetensors"]:
            raise AssertionError(f"{names} were written aside")
        self._goes_on("nan", words, "sft")
        return said

    def loss_not_finite_skipped(self) -> str:
        """With --guard.action skip the step changes nothing, and the run comes to its end."""
        words = self.fit("skipped", "sft", DEMONSTRATIONS, "--guard.action", "skip", *QUIET)
        return self._must(words, 0, "step is left out", nan_at(6))

    def loss_never_finite(self) -> str:
        """With --guard.action skip the run ends after guard.most steps in a row."""
        words = self.fit("never", "sft", DEMONSTRATIONS, "--guard.action", "skip", "--guard.most", "3", *QUIET)
        return self._must(words, 1, "3 in a row", nan_at(6, for_ever=True))

    # ------------------------------------------------------------------ processes

    def one_of_two_processes_dies(self) -> str:
        """The other one ends within seconds, with a message."""
        return self._two("second_dies", first=False)

    def the_first_of_two_processes_dies(self) -> str:
        """The same if it is the one that started the other."""
        return self._two("first_dies", first=True)

    def sigterm_to_one_of_two_processes(self) -> str:
        """Both finish the step, last.ckpt is written, exit code 143."""
        return self._two("second_ends", first=False, signum=signal.SIGTERM, message="ended by SIGTERM")


def _kill_wandb() -> None:
    for process in children(os.getpid()):
        with contextlib.suppress(OSError):
            if "wandb-core" in Path(f"/proc/{process}/cmdline").read_text():
                os.kill(process, signal.SIGKILL)
                time.sleep(0.2)


KINDS = [name for name in vars(Faults) if not name.startswith("_")]


def fault_all(out: Path, names: list[str] | None = None) -> dict[str, Any]:
    """Bring about every kind of fault.

    Args:
        out: Folder for the runs and ``faults.json``.
        names: Kinds; None takes all.

    Returns:
        ``fault_kinds``: how many ended as they should; ``kinds``: what the user sees of each; ``failures``.
    """
    preload()
    faults = Faults(out.resolve())
    faults.prepare()
    result: dict[str, Any] = {"fault_kinds": 0, "kinds": {}, "failures": {}}
    for name in names or KINDS:
        begin = time.monotonic()
        try:
            said = getattr(faults, name)().strip().replace(f"{faults.out}/", "")
            result["kinds"][name] = {"happens": getattr(Faults, name).__doc__, "says": said}
            result["fault_kinds"] += 1
        except Exception as error:
            result["failures"][name] = f"{type(error).__name__}: {error}"
        print(
            f"{name:34} {time.monotonic() - begin:5.1f} s  {result['failures'].get(name, 'as it should')}", flush=True
        )
    (out / "faults.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/reliability/faults"))
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one; may be repeated")
    options = parser.parse_args()
    sys.exit(1 if fault_all(options.out, options.kind)["failures"] else 0)


if __name__ == "__main__":
    main()
