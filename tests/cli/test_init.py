import os
import subprocess
import sys
import time

import pytest

from lit_rlhf import __version__
from lit_rlhf.cli import USAGE, main
from lit_rlhf.cli.commands import FUNCTIONS, LIGHTNING


@pytest.mark.parametrize(
    "statement",
    ["import lit_rlhf", "from lit_rlhf.cli import main; main(['--help'])", "from lit_rlhf.cli import main; main([])"],
)
def test_help_and_import_cost_nothing(statement):
    """Best of three, since the machine may be busy with something else."""
    check = f"{statement}\nimport sys\nheavy = {{'torch', 'lightning', 'transformers', 'numpy'}} & set(sys.modules)\n"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", check + "assert not heavy, heavy"], capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2


def test_help_names_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert shown == USAGE
    for command in (*LIGHTNING, *FUNCTIONS, "run"):
        assert f"\n  {command} " in shown


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"lit-rlhf {__version__}\n"


def test_the_exit_status_is_that_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr("lit_rlhf.cli.commands.dispatch", lambda args: len(args))
    with pytest.raises(SystemExit) as stopped:
        main(["a", "b", "c"])
    assert stopped.value.code == 3


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr("lit_rlhf.cli.commands.dispatch", lambda args: 0)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with pytest.raises(SystemExit):
        main(["fit"])
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_modules_in_the_current_folder_are_found(tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "rewards.py").write_text("def politeness(prompt, response):\n    return 1.0\n")
    statement = (
        "from lit_rlhf.cli import main; sys.argv = ['lit-rlhf', 'nothing']\ntry:\n    main()\nexcept SystemExit:\n"
    )
    statement += "    from lit_rlhf.rewards import PythonReward; PythonReward('my_package.rewards.politeness')"
    words = [sys.executable, "-c", f"import sys; sys.path.remove('')\n{statement}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
