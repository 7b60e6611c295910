"""Commands in processes of their own that start at once, because they are forked from one that has all imported."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

QUIET = (
    "--trainer.logger",
    "false",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
}


def preload() -> None:
    """Import what commands need, and compute nothing: a fork takes along no threads."""
    os.environ.update(ENVIRONMENT)
    import lit_rlhf.cli.experiment
    import lit_rlhf.cli.stage
    import lit_rlhf.evaluation.compare
    import lit_rlhf.evaluation.rounds
    import lit_rlhf.evaluation.strength
    import lit_rlhf.world.presets  # noqa: F401


def start(words: list[str], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """Begin ``lit-rlhf WORDS`` in a new process; returns its number.

    Args:
        words: Of the command line.
        log: What it prints is appended there.
        prepare: Called there first.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from lit_rlhf.cli import main

        if prepare is not None:
            prepare()
        main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
    else:
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def wait(process: int, seconds: float = 300.0) -> int | None:
    """Exit code of a process, the negative number of the signal that ended it, or None if it still runs by then."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def run(words: list[str], log: Path, prepare: Callable[[], None] | None = None, seconds: float = 300.0) -> int:
    """Run a command to its end; returns its exit code. One that takes too long is killed, and its code is -9."""
    process = start(words, log, prepare)
    code = wait(process, seconds)
    if code is None:
        os.kill(process, signal.SIGKILL)
        code = wait(process)
    assert code is not None
    return code
