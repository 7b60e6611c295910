"""How the authors of public benchmarks weigh subsets into sections, and sections into one score."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

Weights = dict[str, float]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a benchmark consists of, and how its authors count it.

    Attributes:
        name: The benchmark.
        format: The format its rows are read as.
        sections: Patterns of the subsets of each section.
        rule: How one row counts, and what the score is a mean of.
        source: Where that is written.
        counts: The weight of each subset in its section; empty where every row weighs the same.
        rows: How many rows each subset has; empty where that is not known.
        by_rows: Whether the score is over all rows, instead of the mean of the sections.
    """

    name: str
    format: str
    sections: dict[str, tuple[str, ...]]
    rule: str
    source: str
    counts: dict[str, int]
    rows: dict[str, int]
    by_rows: bool = False


_REWARD_BENCH_ROWS = {
    "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40,
    "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154, "xstest-should-respond": 250,
    "donotanswer": 136,
    "math-prm": 447, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164, "hep-rust": 164,
}  # fmt: skip

PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
"""The older test sets that RewardBench's leaderboard may add as a fifth section, at half a section's weight."""

REWARD_BENCH = Rules(
    name="RewardBench",
    format="reward-bench",
    sections={
        "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
        "Chat Hard": (
            "mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst", "llmbar-adver-GPTOut",
            "llmbar-adver-manual",
        ),
        "Safety": (
            "refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer",
        ),
        "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
    },
    rule="a row is right if the chosen response scores higher, and wrong if both score alike; a section is the mean of "
    "its subsets weighted by their published sizes, math-prm (447 rows) as 984 like the six code subsets together; the "
    "score is the mean of the four sections",
    source="allenai/reward-bench: rewardbench/constants.py, utils.py (calculate_scores_per_section), scripts/run_rm.py",
    counts=_REWARD_BENCH_ROWS | {"math-prm": 984},
    rows=_REWARD_BENCH_ROWS,
)  # fmt: skip
"""RewardBench, Lambert et al. 2024, arXiv 2403.13787."""

_REWARD_BENCH_2_ROWS = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102}

REWARD_BENCH_2 = Rules(
    name="RewardBench 2",
    format="best-of-n",
    sections={name: (name,) for name in _REWARD_BENCH_2_ROWS},
    rule="a row counts 1/k if the first response, the chosen one, is among the k that share the top score, else 0; "
    "Ties has a score of its own; the score is the unweighted mean of the six subsets",
    source="allenai/reward-bench: rewardbench/utils.py (reroll_and_score_dataset, process_single_model), "
    "scripts/run_v2.py; the mean: section 3 of the paper",
    counts={},
    rows=_REWARD_BENCH_2_ROWS,
)
"""RewardBench 2, Malik et al. 2025, arXiv 2506.01937."""

RM_BENCH = Rules(
    name="RM-Bench",
    format="rm-bench",
    sections={"chat": ("chat",), "math": ("math",), "code": ("code",), "safety": ("safety-refuse", "safety-response")},
    rule="a cell of the matrix is right if the chosen response scores higher, and wrong if both score alike; all rows "
    "of safety-refuse and safety-response together are the domain safety; easy, normal, hard and the score are means "
    "over the four domains",
    source="THU-KEG/RM-Bench: scripts/utils.py (compute_accuracy), README.md (Clarity on Avg Calculation)",
    counts={},
    rows={},
)
"""RM-Bench, Liu et al. 2024, arXiv 2410.16184."""

JUDGE_BENCH = Rules(
    name="JudgeBench",
    format="reward-bench",
    sections={
        "Knowledge": ("mmlu-pro*",),
        "Reasoning": ("livebench-reasoning",),
        "Math": ("livebench-math",),
        "Coding": ("livecodebench",),
    },
    rule="a row is right if the response that the label prefers scores higher, and wrong if both score alike, as when "
    "the authors ask in both orders (asked in one order, equal scores stand for B>A); sections and score are over all "
    "of their rows",
    source="ScalerLab/JudgeBench: utils/metrics.py (compute_final_metrics), utils/judges.py",
    counts={},
    rows={},
    by_rows=True,
)
"""JudgeBench, Tan et al. 2024, arXiv 2410.12784."""

BENCHMARKS = (REWARD_BENCH, REWARD_BENCH_2, RM_BENCH, JUDGE_BENCH)


@dataclass(frozen=True, slots=True)
class Layout:
    """The subsets of a file as sections of a benchmark.

    Attributes:
        rules: The benchmark's.
        sections: For each section with rows, the weights of its subsets; they add up to one.
        score: The weights of all subsets in the score.
        missing: For each section, the subsets of it without rows.
        others: Subsets with rows that belong to no section.
    """

    rules: Rules
    sections: dict[str, Weights]
    score: Weights
    missing: dict[str, list[str]]
    others: list[str]


def find_rules(format: str, subsets: list[str]) -> Rules | None:
    """The benchmark to which most of these subsets belong; None where none of them belongs to any.

    Names are compared without regard to case.
    """
    known = [rules for rules in BENCHMARKS if rules.format == format]
    belonging = {rules.name: sum(_section_of(rules, name) is not None for name in subsets) for rules in known}
    best = max(known, key=lambda rules: belonging[rules.name], default=None)
    return best if best is not None and belonging[best.name] else None


def lay_out(rules: Rules, rows: dict[str, int], by_rows: bool = True) -> Layout:
    """Weigh the subsets of a file.

    Args:
        rules: The benchmark.
        rows: The number of counted rows of each subset.
        by_rows: Whether subsets without published weights count by their rows, as their authors do; else all alike.
    """
    present = {name: count for name, count in rows.items() if count}
    members: dict[str, list[str]] = {section: [] for section in rules.sections}
    for name in present:
        if (section := _section_of(rules, name)) is not None:
            members[section].append(name)
    size = {each.lower(): float(count) for each, count in rules.counts.items()}
    weight = {name: size.get(name.lower(), float(count) if by_rows else 1.0) for name, count in present.items()}
    sections = {section: _shares({name: weight[name] for name in names}) for section, names in members.items() if names}
    if rules.by_rows:
        score = _shares({name: float(present[name]) for names in members.values() for name in names})
    else:
        score = {name: each / len(sections) for weights in sections.values() for name, each in weights.items()}
    return Layout(
        rules,
        sections,
        score,
        {section: _missing(rules, section, names) for section, names in members.items()},
        [name for name in present if _section_of(rules, name) is None],
    )


def _section_of(rules: Rules, subset: str) -> str | None:
    lower = subset.lower()
    for section, patterns in rules.sections.items():
        whole = rules is RM_BENCH and lower == section  # `safety`, not in two halves
        if whole or any(fnmatchcase(lower, pattern.lower()) for pattern in patterns):
            return section
    return None


def _missing(rules: Rules, section: str, names: list[str]) -> list[str]:
    lower = [name.lower() for name in names]
    if rules is RM_BENCH and section in lower:
        return []
    patterns = rules.sections[section]
    return [each for each in patterns if not any(fnmatchcase(name, each.lower()) for name in lower)]


def _shares(weights: Weights) -> Weights:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
