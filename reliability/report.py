"""``summary.md``: the counts of ``make reliability``, and what the user sees of each fault, for people."""

from typing import Any

_COUNTS = {
    "kills_survived": "SIGKILLs after which a stage came to the same end, byte for byte",
    "rows_compared": "rows of histories, tables and stores compared behind them",
    "rows_lost": "of these lost",
    "fault_kinds": "kinds of faults that ended as they should",
    "inputs_fuzzed": "inputs fuzzed",
    "fuzz_crashes": "of these crashed, or were accepted as something else",
    "malformed_files": "malformed files refused with what, where and what to do",
    "two_process_checks": "tests with two processes passed",
}


def markdown(summary: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """The report.

    Args:
        summary: Of `reliability.run.summarise`.
        found: What ``kills``, ``faults`` and ``fuzz`` have left in their files, by name.
    """
    minutes = sum(summary["seconds"].values()) / 60
    lines = [
        "# Reliability",
        "",
        f"`make reliability` ({summary['size']}), {summary['date']}, {summary['machine']}; its parts took",
        f"{minutes:.0f} minutes, two at a time. [faults.md](../faults.md): what each fault does, and how to go on.",
        "",
        "| count | of what |",
        "|---:|---|",
        *(f"| {_number(summary[name])} | {what} |" for name, what in _COUNTS.items()),
        "",
        "## Kills",
        "",
        "| stage | kills | seconds undisturbed | events that touch a file |",
        "|---|---:|---:|---:|",
    ]
    for name, stage in found["kills"].get("stages", {}).items():
        lines.append(f"| {name} | {stage['kills']} | {stage['seconds']} | {stage['writes']} |")
    lines += ["", "## Faults", "", "| fault | what happens | what the user reads |", "|---|---|---|"]
    for name, kind in found["faults"].get("kinds", {}).items():
        says = kind["says"].strip().replace("|", "\\|")
        lines.append(f"| {name.replace('_', ' ')} | {kind['happens']} | {f'`{says}`' if says else ''} |")
    fuzz = found["fuzz"]
    lines += ["", f"## Fuzzing ({fuzz.get('engine', 'not run')})", "", "| reader | inputs | refused | accepted |"]
    lines.append("|---|---:|---:|---:|")
    for name, counts in fuzz.get("readers", {}).items():
        lines.append(f"| {name} | {counts['inputs']:,} | {counts['refused']:,} | {counts['accepted']:,} |")
    wrong = {name: each for name, each in summary["failures"].items() if each}
    lines += ["", "## What did not end as it should", "", *(f"- {name}: {each}" for name, each in wrong.items())]
    return "\n".join([*lines, *([] if wrong else ["Nothing."])]) + "\n"


def _number(value: int | None) -> str:
    return "not counted" if value is None else f"{value:,}"
