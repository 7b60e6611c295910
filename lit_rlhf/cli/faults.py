"""What a command ends with when something outside of it fails: messages, and exit codes (docs/faults.md)."""

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from lit_rlhf.data.errors import DataError

INTERRUPTED, TERMINATED, UNTRACKED = 130, 128 + signal.SIGTERM, 3
"""Exit codes: ended by Ctrl-C; ended by SIGTERM; all is done, but W&B has not been told all of it."""

_ROOM = "Nothing that was finished is lost. Make room; the run then goes on from its last checkpoint."
_RIGHTS = "Nothing that was finished is lost. Give a folder that can be written to, such as --trainer.default_root_dir."
_FOLDER = "A folder is needed where a file stands. Name another one, such as --trainer.default_root_dir."
_HINTS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EIO: "The disk or its network is broken. Nothing that was finished before is lost.",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EEXIST: _FOLDER,
    errno.ENOTDIR: _FOLDER,
}
_IN_TEXT = re.compile(r"(?:\[errno|os error) (\d+)", re.IGNORECASE)  # Arrow and safetensors say it in words only
_TORCH = re.compile(
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing|iostream error"
)  # and torch not even that
_GONE = re.compile(r"closed by peer|connection reset|connection refused|broken pipe|timed out|timeout", re.IGNORECASE)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as schedulers do before they take a machine away."""


def end_on_sigterm() -> Any:
    """Let SIGTERM raise `Terminated`, unless somebody else has taken it; returns the former handler, or None.

    While it trains, `lit_rlhf.cli.checkpoints.Checkpoint` takes it over, and lets the step come to its end.
    """
    ours = threading.current_thread() is threading.main_thread()
    return signal.signal(signal.SIGTERM, _end) if ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else None


def _end(signum: int, frame: Any) -> None:
    raise Terminated


def told(error: BaseException) -> str | None:
    """What the user is told about an error that is theirs or the machine's to mend; None for any other."""
    # Where an option may be one of several types, the parser tells what a class said as a ValueError of its own.
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, ValueError) and "Does not validate against any of the Union" in str(error):
        from lit_rlhf.cli.messages import explained

        return explained(str(error))
    if isinstance(error, ImportError) or type(error).__name__ == "MisconfigurationException":
        from lit_rlhf.cli.messages import missing_package

        package = missing_package(str(error))
        if package:
            return package
    for each in _causes(error):
        number = _number(each)
        if number in _HINTS:
            return str(DataError(f"cannot be written: {os.strerror(number)}", _place(each, error), _HINTS[number]))
        if isinstance(each, RuntimeError) and _TORCH.search(str(each)):
            return str(DataError("cannot be written: most often the disk is full", _place(each, error), _ROOM))
    if isinstance(error, RuntimeError) and _distributed() and _GONE.search(str(error)):
        reason = str(error).strip().splitlines()[0][:200]
        hint = (
            "Its own message, if it had one, stands above. Nothing that was finished is lost: the same command with "
            "--ckpt_path FOLDER/checkpoints/last.ckpt goes on."
        )
        return str(DataError(f"another process of this run has ended or does not answer: {reason}", hint=hint))
    if "lightning" in sys.modules:
        from lit_rlhf.cli.options import of_the_trainer

        wrong = of_the_trainer(error)
        return str(wrong) if wrong else None
    return None


def _place(*errors: BaseException) -> str:
    """The file that one of them names; of a move, where to."""
    names = (getattr(error, name, None) for error in errors for name in ("filename2", "filename"))
    return str(next((name for name in names if name), "a file of this run"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if type(error).__name__ == "CheckpointException":  # of each process that wrote a part
            yield from (each for each, _ in error.failures.values())  # type: ignore[attr-defined]
        # An error of another kind, raised while one of the disk's was handled, has a cause of its own.
        beside = isinstance(error, OSError | RuntimeError) and not error.__suppress_context__
        error = error.__cause__ or (error.__context__ if beside else None)


def _number(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _IN_TEXT.search(str(error)) if isinstance(error, OSError) or "Safetensor" in type(error).__name__ else None
    return int(found[1]) if found else 0


def _distributed() -> bool:
    torch = sys.modules.get("torch")
    return "LOCAL_RANK" in os.environ or (torch is not None and torch.distributed.is_initialized())
