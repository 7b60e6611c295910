"""The latest results as Markdown: rows, claims, pictures."""

import os
from pathlib import Path

from research.report.sources import Results
from research.report.wording import ROWS, SCOPE, counts, home, label
from research.study_results import RULE, claims_table

PICTURES = {
    "reward": {"reward.png": "strength, slices, treatments, contrastive losses, MetaRM"},
    "seq2seq": {"seq2seq.png": "three annotators", "heatmap.png": "a rewriter's rewards, token by token"},
    "ppo": {"ppo.png": "regimes, over-optimisation, rounds"},
}


def results_markdown(studies: list[Results], at: Path) -> str:
    """The rows with their verdicts, all claims, the pictures, and links to the studies' own pages.

    Args:
        studies: What they left behind.
        at: The folder of the file, for links.
    """
    claims = [claim for each in studies for claim in each.summary["claims"]]
    found = counts(claims)
    dates = [each.summary["date"] for each in studies]
    versions = studies[0].summary["versions"]
    lines = [
        "# Results",
        "",
        f"The latest full run of every study (until {max(dates)}, Python {versions['python']}, torch "
        f"{versions['torch']}): of {len(claims)} claims {found['holds']} hold, {found['does not hold']} do not, "
        f"{found['undecided']} are undecided. `make report` shows the same on a page with interactive figures, samples "
        "and token rewards; this file is written by "
        "`python -m research report --markdown docs/results.md --studies '[docs/results]'`.",
        "",
        "| | claims about | paper | holds | does not hold | undecided | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, about in ROWS.items():
        mine = [claim for claim in claims if row in claim["rows"]]
        if mine:
            cells = [label(row), about.title, about.paper or "–", *(str(n) for n in counts(mine).values())]
            lines.append(f"| {' | '.join(cells)} | `make study NAME={row}` |")
    lines += [
        "",
        SCOPE,
        "",
        RULE,
    ]
    for study in studies:
        lines += ["", *_study(study, at)]
    return "\n".join(lines) + "\n"


def _study(study: Results, at: Path) -> list[str]:
    folder = Path(os.path.relpath(study.folder, at)).as_posix()
    lines = [f"## Study `{study.name}`", "", f"Criteria, likely reasons, settings: [{folder}]({folder}/README.md)."]
    for row, about in ROWS.items():
        mine = [claim for claim in study.summary["claims"] if home(claim) == row]
        if mine:
            lines += ["", f"### {label(row)}: {about.title}", "", *claims_table(mine)]
    for name, text in PICTURES[study.name].items():
        if (study.folder / name).exists():
            lines += ["", f"![{text}]({folder}/{name})"]
    return lines
