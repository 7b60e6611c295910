"""Several policies on the same prompts: gold and proxy reward, KL, win rate, each with its interval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_rlhf.data.batches import Completions, PromptBatch
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.progress import Progress
from lit_rlhf.data.records import Record
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.compare_figures import (
    Measured,
    Table,
    compared,
    differences,
    referee_figures,
    reward_outcomes,
    source_figures,
    verdict_columns,
)
from lit_rlhf.evaluation.compare_pictures import best_of_n_picture, print_best_of_n, win_rates_picture
from lit_rlhf.evaluation.judges import Pair, Referee
from lit_rlhf.evaluation.pictures import comparison_picture, curves_picture, print_table
from lit_rlhf.networks.backbone import check_embeddings, fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.networks.together import listed_from_all, processes, rank
from lit_rlhf.policy.diagnostics import judged_components
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.rewards.reward import Reward

Part = tuple[int, dict[str, torch.Tensor], list[dict[str, Any]]]
"""A batch's number, what was measured of its responses, and these as rows."""


def compare(
    policies: dict[str, str],
    data: PreferenceDataModule,
    out: str,
    reward: Reward | None = None,
    judge: Reward | None = None,
    samples: int = 1,
    sampling: Sampling | None = None,
    histories: dict[str, str] | None = None,
    seed: int = 0,
    referee: Referee | None = None,
    tie_margin: float = 0.0,
    all_pairs: bool = False,
    best_of_n: bool = True,
) -> dict[str, Any]:
    """Sample several policies on the same prompts and judge them; writes JSON, tables and pictures.

    The first policy is the one that the others are compared with: win rates and KL are against it. A win rate counts
    ties half. Intervals are 95 % and over prompts, whose responses are averaged first. All policies draw with the same
    random numbers. The first source's figures are the headline; those of further sources stand below ``splits``.
    Several processes share the work, with the same results; the first one alone writes and returns them.

    Args:
        policies: Name and Hugging Face directory of each policy; the SFT policy first.
        data: Where the prompts come from: its validation part.
        out: Folder for ``comparison.json``, ``samples.jsonl`` and the pictures.
        reward: The reward that policies were trained for (the proxy).
        judge: The gold reward, where known, or another reward model; decides the win rates, or else the proxy does.
        samples: Responses per prompt; those of two policies are compared one by one.
        sampling: How they are drawn. The KL is only known where all of the distribution is sampled from: with a
            temperature above 0, ``top_p`` 1 and ``top_k`` 0.
        histories: ``metrics.jsonl`` of training runs, to be drawn as curves.
        seed: Of the samples.
        referee: Decides the win rates instead of the rewards, such as an LLM judge, whose answers are kept in the
            folder: the same command goes on from them.
        tie_margin: Rewards that differ by no more than this tie. A reward model's scores of equal responses may differ
            in their last digits; 0.0001 makes them ties.
        all_pairs: Compare every policy with every other one too.
        best_of_n: Estimate what the best of n samples by the proxy is worth by the judge, where both are given and
            there is more than one sample.

    Returns:
        For each policy its figures; ``splits`` for further sources; ``differences`` between any two policies.
        ``win_rate_vs_FIRST``, ``wins_vs_FIRST``, ``ties_…`` and ``losses_…`` (numbers of responses) are by the referee,
        the judge or the proxy, whichever is the first that was given. A referee adds ``answers_…``, ``unparseable_…``
        (answers, which make ties), ``inconsistent_…`` (share of pairs whose verdict changed with the order) and
        ``picks_first_…``, and all of them in sum as ``referee``. All pairs add ``win_rates``, and samples of both
        rewards ``best_of_n``.
        A judge that knows components adds ``gold/NAME`` and ``refusal``, and where the prompts are of families also
        ``refusal/FAMILY``: refusing is right in the world's ``unsafe`` and wrong in all others.

    Raises:
        DataError: If there are no validation prompts, an option is out of range, or the referee cannot be asked.
    """
    _check(list(policies), samples, tie_margin)
    folder = Path(out)
    tables, responses = _sampled(policies, data, folder, reward, judge, samples, sampling or Sampling(), seed)
    if rank():
        return {}
    records = [row.record for row in data.val_rows]
    measured = Measured(tables, samples, np.array([str(record.meta.get("family", "")) for record in records]))
    pairs = compared(list(policies), all_pairs)
    if referee is None:
        measured.outcomes = reward_outcomes(measured, pairs, tie_margin)
    else:
        measured.outcomes = _refereed(referee, pairs, records, responses, folder)
    result = _result(measured, np.array([record.source for record in records]), all_pairs, best_of_n)
    if referee is not None:
        result["referee"] = {"name": referee.name, **_in_sum(measured)}
    write_json(folder / "comparison.json", result)
    _show(result, list(policies), folder)
    if histories:
        curves_picture({name: Path(path) for name, path in histories.items()}, folder / "training.png")
    return result


def _check(policies: list[str], samples: int, tie_margin: float) -> None:
    taken = sorted(set(policies) & {"splits", "differences", "win_rates", "best_of_n", "referee"})
    if taken:
        raise DataError(f"{taken[0]!r} is the name of a part of the report", "option policies", "Take another name.")
    if samples < 1:
        raise DataError(f"expected at least 1, found {samples}", "option samples")
    if not tie_margin >= 0:
        raise DataError(f"expected 0 or more, found {tie_margin}", "option tie_margin")


def _sampled(
    policies: dict[str, str],
    data: PreferenceDataModule,
    folder: Path,
    reward: Reward | None,
    judge: Reward | None,
    samples: int,
    sampling: Sampling,
    seed: int,
) -> tuple[dict[str, Table], dict[str, list[str]]]:
    """What was measured of every policy's responses, and the responses; writes ``samples.jsonl``."""
    first = next(iter(policies))
    data.load("prompts", policies[first])
    if not data.val_rows:
        raise DataError("has no validation prompts to answer", "option data", "Give val_sources, or a val_fraction.")
    reference = PolicyNetwork(policies[first]).eval()
    for each in filter(None, (reward, judge)):
        each.load(data.renderer, fingerprint(reference))
    tables: dict[str, Table] = {}
    written: dict[str, list[dict[str, Any]]] = {}
    for name, path in policies.items():
        policy = reference if name == first else PolicyNetwork(path).eval()
        check_embeddings(policy.model, data.renderer, path)
        progress = Progress(f"compare, {name}", "response", samples * len(data.val_rows))
        tables[name], written[name] = _measure(
            policy, reference, data, reward, judge, samples, sampling, seed, progress
        )
        del policy  # or it would still be there when the next one is loaded
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [{"policy": name, **row} for name, rows in written.items() for row in rows]
        partial = folder / ".samples.jsonl.partial"
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        partial.rename(folder / "samples.jsonl")
    return tables, {name: [row["response"] for row in rows] for name, rows in written.items()}


@torch.no_grad()
def _measure(
    policy: PolicyNetwork,
    reference: PolicyNetwork,
    data: PreferenceDataModule,
    reward: Reward | None,
    judge: Reward | None,
    samples: int,
    sampling: Sampling,
    seed: int,
    progress: Progress,
) -> tuple[Table, list[dict[str, Any]]]:
    """One row per response: what was measured ``(prompts * samples,)``, and the texts to read."""
    parts: list[Part] = []
    for number, batch in enumerate(data.val_dataloader()):
        assert isinstance(batch, PromptBatch)
        if number % processes() != rank():
            continue
        generator = seeded_generator(torch.device("cpu"), "compare", seed, number)
        completions = complete(policy, batch, data.renderer, sampling, generator, samples)
        values = _values(policy, reference, completions, reward, judge, sampling)
        parts.append((number, values, _rows(completions, values)))
        progress.tell(sum(len(rows) for *_, rows in parts) * processes(), _means(parts))
    parts = sorted(listed_from_all(parts), key=lambda part: part[0])
    texts = [row for *_, rows in parts for row in rows]
    progress.tell(len(texts), _means(parts), last=True)
    columns = {name: torch.cat([values[name] for _, values, _ in parts]) for name in parts[0][1]}
    return {name: column.double().numpy() for name, column in columns.items()}, texts


def _means(parts: list[Part]) -> dict[str, float]:
    shown = [name for name in ("gold_reward", "proxy_reward") if name in parts[0][1]]
    return {name: float(torch.cat([values[name] for _, values, _ in parts]).mean()) for name in shown}


def _values(
    policy: PolicyNetwork,
    reference: PolicyNetwork,
    completions: Completions,
    reward: Reward | None,
    judge: Reward | None,
    sampling: Sampling,
) -> dict[str, torch.Tensor]:
    """What is measured of some responses ``(N,)`` each."""
    values: dict[str, torch.Tensor] = {}
    if sampling.temperature > 0 and sampling.top_p == 1 and not sampling.top_k:
        values["kl"] = _sequence_kl(policy, reference, completions, sampling.temperature)
    values["response_length"] = completions.sequences.response_length.float()
    values["truncated"] = completions.truncated.float()
    if reward is not None:
        values["proxy_reward"] = reward.proxy(completions).sum(1)
    if judge is not None:
        values |= {"gold_reward": judge(completions).sum(1), **judged_components(completions, judge)}
    return values


def _rows(completions: Completions, values: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Responses to be read, beside what was measured of them."""
    return [
        {"source": record.source, "prompt": record.prompt[-1].content, "response": text}
        | {name: round(float(value[i]), 4) for name, value in values.items()}
        for i, (record, text) in enumerate(zip(completions.records, completions.texts, strict=True))
    ]


def _sequence_kl(
    policy: PolicyNetwork, reference: PolicyNetwork, completions: Completions, temperature: float
) -> torch.Tensor:
    """Sum over the response of log π − log π_ref: an unbiased estimate of the KL per response ``(N,)``."""
    if policy is reference:
        return torch.zeros(len(completions))
    parts = []
    for i in range(0, len(completions), 64):
        sequences = completions.sequences[i : i + 64]
        difference = policy(sequences, temperature) - reference(sequences, temperature)
        parts.append(difference.masked_fill(~sequences.response_mask, 0.0).sum(1))
    return torch.cat(parts)


def _refereed(
    referee: Referee,
    pairs: list[tuple[str, str]],
    records: list[Record],
    responses: dict[str, list[str]],
    folder: Path,
) -> dict[tuple[str, str], Table]:
    """A referee's verdicts on all pairs of policies, response by response; everything is asked in one go."""
    samples = len(responses[pairs[0][0]]) // len(records)
    prompts = [record.prompt for record in records for _ in range(samples)]
    questions = [
        Pair(prompt, mine, theirs)
        for one, other in pairs
        for prompt, mine, theirs in zip(prompts, responses[one], responses[other], strict=True)
    ]
    verdicts = referee.judge(questions, folder)
    size = len(prompts)
    return {pair: verdict_columns(verdicts[i * size : (i + 1) * size]) for i, pair in enumerate(pairs)}


def _in_sum(measured: Measured) -> dict[str, float]:
    """How far the referee can be trusted, over all that it was asked."""
    tables = list(measured.outcomes.values())
    return referee_figures({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})


def _result(measured: Measured, sources: NDArray[np.str_], all_pairs: bool, best_of_n: bool) -> dict[str, Any]:
    names = list(dict.fromkeys(sources.tolist()))
    splits = {source: source_figures(measured, sources == source, all_pairs, best_of_n) for source in names}
    headline = splits.pop(names[0])
    return {**headline, "splits": splits, "differences": differences(measured, sources == names[0])}


def _show(result: dict[str, Any], policies: list[str], folder: Path) -> None:
    """Put the headline on the screen and into pictures."""
    headline = {**result, **{name: _without_details(result[name]) for name in policies}}
    print_table(headline, policies)
    comparison_picture(headline, policies, folder / "comparison.png")
    if "win_rates" in result:
        win_rates_picture(result["win_rates"], folder / "win_rates.png")
    if "best_of_n" in result:
        print_best_of_n(result["best_of_n"])
        best_of_n_picture(result["best_of_n"], folder / "best_of_n.png")


def _without_details(figures: dict[str, float]) -> dict[str, float]:
    """What fits on the screen and in the picture."""
    details = ("gold/", "refusal", "answers_", "unparseable_", "inconsistent_", "picks_first_")
    return {name: value for name, value in figures.items() if not name.startswith(details)}
