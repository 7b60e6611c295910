"""The laboratory's commands.

python -m research study -c configs/studies/reward.yaml     claims over several seeds, and their verdicts
python -m research report                                   one page of all claims: runs/report/index.html
python -m research COMMAND --help                           all options of a command
"""

import sys

from lit_rlhf.cli import main
from lit_rlhf.cli.commands import FUNCTIONS

FUNCTIONS.update({"study": "research.study.study", "report": "research.report.report"})

if __name__ == "__main__":
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
    else:
        main(words)
