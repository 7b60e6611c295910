"""The command line. Asking for help costs nothing: heavy imports happen where a command needs them."""

import os
import sys

USAGE = """\
usage: lit-rlhf COMMAND [options]

Reward models, and what policy optimisation does to them, as Lightning runs started from YAML.

stages, each a Lightning run:
  fit        train: SFTModule, ScalarRewardModule, PPOModule
  validate   measure on the validation part
  test       the same, on data named for testing
  predict    offline baselines: BaselineModule samples and scores responses, and writes their store

other commands:
  run        run a whole experiment: every stage of a file or folder of stage configs, in one process
  inspect    show what files are read as, before anything is trained on them
  strength   train voters on preference pairs and write how strongly they prefer each
  evaluate   measure a reward model on preference pairs and on benchmark files
  leaderboard  compare reward models on the same rows of a benchmark, from tables of their scores
  compare    sample several policies on the same prompts and judge them
  rounds     report on rounds of policy optimisation and MetaRM
  export     turn a checkpoint into a Hugging Face directory
  plan       tell what memory a stage needs, before anything is rented
  sweep      run the trials of a W&B sweep file on this machine, without an account
  world      write a small random model and tokenizer of the embedded synthetic world
  model      turn a GGUF file, or a pretrained model from a package, into a Hugging Face directory

  lit-rlhf COMMAND --help                    all options of a command
  lit-rlhf fit --model.help PPOModule        all options of a module
  lit-rlhf fit -c a.yaml -c b.yaml --data.batch_size 64
                                             configs are merged from left to right
"""


def main(args: list[str] | None = None) -> None:
    """Entry point of ``lit-rlhf``.

    Args:
        args: Command-line words without the program's name; None takes the process's own.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if args[0] == "--version":
        from lit_rlhf import __version__

        print(f"lit-rlhf {__version__}")
        return
    # Threads that wait by spinning make a run many times slower when another process is busy; ones that sleep at once
    # make small models a third slower when none is. A short spin is a fair middle. torch reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: classes and functions of one's own are found by name
    from lit_rlhf.cli.commands import dispatch

    sys.exit(dispatch(args))
