"""The report: one static page that needs nothing from elsewhere, and the same as Markdown."""

import json
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.evaluation.heatmap import heatmap_style
from research.report.claim_list import claim_list, row_list, scoreboard
from research.report.figures import figures_of
from research.report.markdown import results_markdown
from research.report.pipeline import pipeline_svg
from research.report.samples import heat_section, sample_cards
from research.report.sources import Results, find_demo, find_studies, generation_tokens, rewriter_tokens
from research.report.wording import PAPERS, ROWS, SCOPE, label
from research.studies import PPOStudy, RewardStudy, Seq2SeqStudy
from research.study_results import RULE

__all__ = ["report"]

TITLE = "What holds: reward models and PPO under known noise"
FAMILIES = {"reward": RewardStudy, "seq2seq": Seq2SeqStudy, "ppo": PPOStudy}


def report(
    out: str = "runs/report",
    studies: list[str] | None = None,
    demos: list[str] | None = None,
    markdown: str | None = None,
) -> Path:
    """Write one page of all claims with verdicts, figures, samples, token rewards and environment: ``index.html``.

    The page needs nothing from elsewhere: it can be mailed, and opened without a network.

    Args:
        out: Folder to write to.
        studies: Folders with results of studies, in the order of preference; None takes ``runs/studies``, then the
            repository's ``docs/results``.
        demos: Folders of experiments with samples, in the order of preference; None takes ``runs/demo``, then
            ``docs/results/demo``.
        markdown: A file to which the table and the pictures are also written as Markdown, such as ``docs/results.md``.

    Returns:
        The page.

    Raises:
        DataError: If there are no results, or they cannot be read.
    """
    found = find_studies(studies or ["runs/studies", "docs/results"])
    demo = find_demo(demos or ["runs/demo", "docs/results/demo"])
    page = Path(out) / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    _write(page, render(found, demo))
    if markdown:
        _write(Path(markdown), results_markdown(found, Path(markdown).parent))
    rank_zero_info(f"report: {page}, from {', '.join(str(each.folder) for each in found)}")
    return page


def render(studies: list[Results], demo: Path | None) -> str:
    """The page's HTML.

    Args:
        studies: What they left behind.
        demo: Folder of an experiment with samples.
    """
    here = Path(__file__).parent
    claims = [claim | {"study": each.name} for each in studies for claim in each.summary["claims"]]
    claims.sort(key=lambda claim: list(ROWS).index(row) if (row := claim["id"].split("_")[0]) in ROWS else len(ROWS))
    dates = sorted({each.summary["date"] for each in studies})
    template = Template((here / "page.html").read_text("utf-8"))
    return template.substitute(
        title=TITLE,
        style=(here / "page.css").read_text("utf-8") + f".heat{{{heatmap_style()}}}",
        script=(here / "page.js").read_text("utf-8"),
        measured=f"{len(claims)} claims, measured until {dates[-1]}; {_seeds(studies)}.",
        scoreboard=scoreboard(claims),
        rows=row_list(claims, row_seconds(studies)),
        papers="".join(f"<option>{escape(name)}</option>" for name in PAPERS),
        row_options="".join(
            f'<option value="{row}">{label(row)} · {escape(about.title)}</option>' for row, about in ROWS.items()
        ),
        number=len(claims),
        rule=escape(RULE),
        scope=escape(SCOPE),
        claims=claim_list(claims),
        figures=_figures(studies),
        samples_note=_samples_note(demo),
        samples=sample_cards(demo),
        tokens=heat_section(_heat_maps(studies, demo)),
        pipeline=pipeline_svg(),
        environment=_environment(studies),
        footer=_footer(studies, demo),
    )


def row_seconds(studies: list[Results]) -> dict[str, float]:
    """Processor seconds that the parts of each row took, as far as they are known.

    Args:
        studies: What they left behind.
    """
    found: dict[str, float] = {}
    for each in studies:
        family = FAMILIES[each.name]
        for row, parts in family.rows.items():
            wanted = {*parts, *(family.after[part] for part in parts if part in family.after)}
            times = [p["cpu_seconds"] or p["seconds"] for p in each.summary.get("parts", []) if p["part"] in wanted]
            if times:
                found[row] = found.get(row, 0.0) + sum(times)
    return found


def _heat_maps(studies: list[Results], demo: Path | None) -> dict[str, Any]:
    maps = {"Rewards of a rewriter, for answers of the SFT policy": rewriter_tokens(studies)}
    if demo:
        maps["Advantages in PPO with a scalar reward model (demo)"] = generation_tokens(demo, "ppo", "token_advantages")
        maps["Rewards in PPO with a scalar reward model (demo): all on the last token"] = generation_tokens(
            demo, "ppo", "token_rewards"
        )
    return maps


def _figures(studies: list[Results]) -> str:
    found = [figure for each in studies for figure in figures_of(each)]
    found.sort(key=lambda figure: list(ROWS).index(figure.row))
    if not found:
        return '<p class="nothing">No tables of figures here: <code>make study</code> writes them.</p>'
    boxes = "".join(
        f'<figure><figcaption><a class="tag" href="#claims" data-row="{each.row}">{label(each.row)}</a> '
        f"{escape(each.title)}<small>{escape(each.note)}</small></figcaption>{each.body}</figure>"
        for each in found
    )
    return f'<div class="figures">{boxes}</div>'


def _samples_note(demo: Path | None) -> str:
    if not demo:
        return ""
    return (
        f"Answers to prompts that no training saw, from <code>{escape(str(demo))}</code>, evenly spaced over each "
        "source and not picked by what was answered. The gold reward is the world's own; green is better than before, "
        "red worse."
    )


def _seeds(studies: list[Results]) -> str:
    numbers = sorted({claim["seeds"] for each in studies for claim in each.summary["claims"]})
    return f"{numbers[0]} seeds each" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds each"


def _environment(studies: list[Results]) -> str:
    return '<div class="env">' + "".join(_of_study(each) for each in studies) + "</div>"


def _of_study(study: Results) -> str:
    summary = study.summary
    entries = {
        "command": f"make study NAME={study.name}",
        "results": str(study.folder),
        "until": summary["date"],
        "seeds": ", ".join(map(str, summary.get("seeds", []))),
        "time": f"{(summary['seconds']['all_parts_cpu'] or summary['seconds']['all_parts']) / 60:.0f} min of one core",
        "machine": summary.get("machine", ""),
        **summary["versions"],
    }
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries.items() if text)
    settings = escape(json.dumps(summary["settings"], indent=1))
    return (
        f'<article class="card"><h3>Study {escape(study.name)}</h3><dl>{body}</dl>'
        f"<details><summary>settings</summary><pre>{settings}</pre></details></article>"
    )


def _footer(studies: list[Results], demo: Path | None) -> str:
    sources = ", ".join(f"<code>{escape(str(each.folder))}</code>" for each in studies)
    samples = f" and <code>{escape(str(demo))}</code>" if demo else ""
    papers = " · ".join(f'<a href="{link}">{escape(name)}, {number}</a>' for name, (number, link) in PAPERS.items())
    made = datetime.now(UTC).date().isoformat()
    return f"Made on {made} by <code>make report</code> from {sources}{samples}. Papers: {papers}."


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
