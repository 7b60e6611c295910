"""What a command says, and ends with, when something outside of it fails."""

import errno
import os
import re
import signal
import sys

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.checkpoint.api import CheckpointException

from lit_rlhf.cli import commands, faults, tracking
from lit_rlhf.cli.commands import dispatch
from lit_rlhf.cli.faults import TERMINATED, UNTRACKED, Terminated, told
from lit_rlhf.data.errors import DataError


def chained(inner: BaseException) -> RuntimeError:
    outer = RuntimeError("while saving")
    outer.__cause__ = inner
    return outer


def in_parts(inner: BaseException) -> CheckpointException:
    """As a process ends that writes its part of a checkpoint."""
    outer = CheckpointException("save", {0: (inner, None)})  # type: ignore[dict-item]
    outer.filename = "/data/.last.ckpt.partial"  # type: ignore[attr-defined]
    return outer


POSITION = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"


class SafetensorError(Exception):
    """Of the same name as safetensors' own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x.ckpt"),
            r"/data/x\.ckpt: .*No space left[\s\S]*Make room",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/data"), r"/data: .*Read-only[\s\S]*default_root_dir"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), r"/data: .*Permission denied"),
        (chained(OSError(errno.ENOSPC, "No space left on device", "/data")), "No space left"),
        (OSError(errno.ENOSPC, "No space left", "/scratch/x", None, "/data/x.ckpt"), r"/data/x\.ckpt: .*No space left"),
        (OSError("[Errno 28] Error writing bytes to file"), "No space left"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError(POSITION), r"a file of this run: cannot be written[\s\S]*Make room"),
        (in_parts(RuntimeError(POSITION)), r"/data/\.last\.ckpt\.partial: cannot be written[\s\S]*Make room"),
        (in_parts(OSError(errno.EROFS, "Read-only file system", "/data/x")), r"/data/x: .*Read-only"),
        (FileExistsError(errno.EEXIST, "File exists", "runs/x"), r"runs/x: .*File exists[\s\S]*where a file stands"),
        (MisconfigurationException("No supported gpu backend found!"), r"Trainer: No supported gpu[\s\S]*cpu\.yaml"),
        (
            ValueError(
                "Does not validate against any of the Union subtypes\nSubtypes: [int]\nErrors:\n  - lora.r: is 0\n"
                "  - Expected a <class 'NoneType'>\nGiven value type: <class 'int'>"
            ),
            r"^  - lora\.r: is 0$",
        ),
        (DataError("is wrong", "a.jsonl:2", "Mend it."), r"a\.jsonl:2: is wrong"),
    ],
)
def test_errors_of_disks_are_messages_with_file_reason_and_what_to_do(error, said):
    assert re.search(said, told(error) or "")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        in_parts(KeyError("x")),
        OSError(errno.ENOENT, "none", "x"),
        ValueError("x"),
        RuntimeError("timed out"),
    ],
)
def test_other_errors_keep_their_traceback(error):
    assert told(error) is None


def test_an_error_of_the_other_process_is_told_as_such(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    message = told(RuntimeError("[gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:9: Connection reset by peer"))
    assert message is not None
    assert "another process of this run has ended" in message
    assert "--ckpt_path" in message


@pytest.fixture
def command(monkeypatch):
    """A command that does as it is told."""
    actions = []
    monkeypatch.setitem(commands.FUNCTIONS, "act", "any.thing")
    monkeypatch.setattr(commands, "call", lambda *given, **more: actions[0]())
    return actions.append


def test_sigterm_ends_a_command_with_its_own_code_and_is_given_back(command, capfd):
    former = signal.getsignal(signal.SIGTERM)
    command(lambda: os.kill(os.getpid(), signal.SIGTERM) or sys.exit("it went on"))
    assert dispatch(["act"]) == TERMINATED == 143
    assert "ended by SIGTERM" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_checkpoint_in_parts_that_cannot_be_written_ends_a_command_with_a_message(command, capfd):
    def full():
        raise in_parts(RuntimeError(POSITION))

    command(full)
    assert dispatch(["act"]) == 1
    assert "error: /data/.last.ckpt.partial: cannot be written" in capfd.readouterr().err


def test_a_handler_of_somebody_else_is_left_alone(command):
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        command(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert dispatch(["act"]) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, former)


def test_what_wandb_was_not_told_shows_in_the_exit_code_once(command):
    command(lambda: tracking._tell("its service has failed"))
    assert dispatch(["act"]) == UNTRACKED == 3
    assert tracking.untracked() == []


def test_a_terminated_run_is_an_interrupted_one():
    assert issubclass(Terminated, KeyboardInterrupt)
    assert not issubclass(Terminated, Exception)
    assert faults.INTERRUPTED == 130


def test_an_error_of_the_program_is_not_taken_for_one_of_the_disk():
    full = OSError(errno.ENOSPC, "No space left on device", "a/file")
    for error, is_the_disks in ((KeyError("missing"), False), (RuntimeError("it could not be saved"), True)):
        error.__context__ = full  # as if raised while the other was handled
        assert ("a/file" in (told(error) or "")) == is_the_disks
