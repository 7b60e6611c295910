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
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.pictures import comparison_picture, curves_picture, print_table
from lit_rlhf.evaluation.statistics import Column, bootstrap_interval
from lit_rlhf.networks.backbone import fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy.diagnostics import judged_components
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.rewards.reward import Reward


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
) -> dict[str, Any]:
    """Sample several policies on the same prompts and judge them; writes JSON, a table and pictures.

    The first policy is the one that the others are compared with: win rates and KL are against it. The first
    source's figures are the headline; those of further sources stand below ``splits``.

    Args:
        policies: Name and Hugging Face directory of each policy; the SFT policy first.
        data: Where the prompts come from: its validation part.
        out: Folder for ``comparison.json``, ``samples.jsonl`` and the pictures.
        reward: The reward that policies were trained for (the proxy).
        judge: The gold reward, where known; decides the win rates, or else the proxy does.
        samples: Responses per prompt.
        sampling: How they are drawn.
        histories: ``metrics.jsonl`` of training runs, to be drawn as curves.
        seed: Of the samples.

    Returns:
        For each policy its figures; ``splits`` for further sources; ``differences`` between the trained policies.
        A judge that knows components adds ``gold/NAME`` and ``refusal``, and where the prompts are of families also
        ``refusal/FAMILY``: refusing is right in the world's ``unsafe`` and wrong in all others.

    Raises:
        DataError: If there are no validation prompts.
    """
    sampling = sampling or Sampling()
    first = next(iter(policies))
    data.load("prompts", policies[first])
    if not data.val_rows:
        raise DataError("has no validation prompts to answer", "option data", "Give val_sources, or a val_fraction.")
    reference = PolicyNetwork(policies[first]).eval()
    for each in filter(None, (reward, judge)):
        each.load(data.renderer, fingerprint(reference))
    tables: dict[str, dict[str, Column]] = {}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for name, path in policies.items():
            policy = reference if name == first else PolicyNetwork(path).eval()
            tables[name], texts = _measure(policy, reference, data, reward, judge, samples, sampling, seed)
            file.writelines(json.dumps({"policy": name, **row}, ensure_ascii=False) + "\n" for row in texts)
    sources = [row.record.source for row in data.val_rows]
    families = np.array([str(row.record.meta.get("family", "")) for row in data.val_rows])
    splits = {
        source: _figures(tables, np.array([each == source for each in sources]), families, first, samples)
        for source in dict.fromkeys(sources)
    }
    result = {**next(iter(splits.values())), "splits": dict(list(splits.items())[1:])}
    result["differences"] = _differences(tables, np.array([each == sources[0] for each in sources]), first, samples)
    write_json(folder / "comparison.json", result)
    headline = {**result, **{name: _without_details(result[name]) for name in policies}}
    print_table(headline, list(policies))
    comparison_picture(headline, list(policies), folder / "comparison.png")
    if histories:
        curves_picture({name: Path(path) for name, path in histories.items()}, folder / "training.png")
    return result


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
) -> tuple[dict[str, Column], list[dict[str, Any]]]:
    """One row per response: what was measured ``(prompts * samples,)``, and the texts to read."""
    columns: dict[str, list[torch.Tensor]] = {}
    texts: list[dict[str, Any]] = []
    for number, batch in enumerate(data.val_dataloader()):
        assert isinstance(batch, PromptBatch)
        generator = seeded_generator(torch.device("cpu"), "compare", seed, number)
        completions = complete(policy, batch, data.renderer, sampling, generator, samples)
        values = {
            "kl": _sequence_kl(policy, reference, completions, sampling.temperature),
            "response_length": completions.sequences.response_length.float(),
            "truncated": completions.truncated.float(),
        }
        values |= {"proxy_reward": reward(completions).sum(1)} if reward is not None else {}
        if judge is not None:
            values |= {"gold_reward": judge(completions).sum(1), **judged_components(completions, judge)}
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
        for i, (record, text) in enumerate(zip(completions.records, completions.texts, strict=True)):
            row = {"source": record.source, "prompt": record.prompt[-1].content, "response": text}
            texts.append(row | {name: round(float(value[i]), 4) for name, value in values.items()})
    return {name: torch.cat(parts).double().numpy() for name, parts in columns.items()}, texts


def _sequence_kl(
    policy: PolicyNetwork, reference: PolicyNetwork, completions: Completions, temperature: float
) -> torch.Tensor:
    """Sum over the response of log π − log π_ref: an unbiased estimate of the KL per response ``(N,)``."""
    parts = []
    for i in range(0, len(completions), 64):
        sequences = completions.sequences[i : i + 64]
        difference = policy(sequences, temperature or 1.0) - reference(sequences, temperature or 1.0)
        parts.append(difference.masked_fill(~sequences.response_mask, 0.0).sum(1))
    return torch.cat(parts)


def _figures(
    tables: dict[str, dict[str, Column]],
    prompts: NDArray[np.bool_],
    families: NDArray[np.str_],
    first: str,
    samples: int,
) -> dict[str, dict[str, float]]:
    """Mean of every column over the chosen prompts, with the 95 % interval of what policies are judged by."""
    figures = {}
    named = [each for each in np.unique(families[prompts]).tolist() if each]
    for name, table in tables.items():
        columns = {column: values.reshape(-1, samples)[prompts].mean(1) for column, values in table.items()}
        wins = _wins(table, tables[first])
        if wins is not None:
            columns[f"win_rate_vs_{first}"] = wins.reshape(-1, samples)[prompts].mean(1)
        figures[name] = {column: float(values.mean()) for column, values in columns.items()}
        for column in ("gold_reward", "proxy_reward", f"win_rate_vs_{first}"):
            if column in columns:
                low, high = bootstrap_interval(columns[column])
                figures[name] |= {f"{column}_low": low, f"{column}_high": high}
        if "refusal" in columns:
            refused = {each: columns["refusal"][families[prompts] == each].mean() for each in named}
            figures[name] |= {f"refusal/{each}": float(share) for each, share in refused.items()}
    return figures


def _without_details(figures: dict[str, float]) -> dict[str, float]:
    """What fits on the screen and in the picture."""
    return {name: value for name, value in figures.items() if not name.startswith(("gold/", "refusal"))}


def _wins(table: dict[str, Column], other: dict[str, Column]) -> Column | None:
    """1 where the response beats the other policy's to the same prompt, one half where they tie."""
    column = "gold_reward" if "gold_reward" in table else "proxy_reward"
    if column not in table:
        return None
    return (np.sign(table[column] - other[column]) + 1) / 2


def _differences(
    tables: dict[str, dict[str, Column]], prompts: NDArray[np.bool_], first: str, samples: int
) -> dict[str, dict[str, float]]:
    """Paired differences between the trained policies, prompt by prompt."""
    trained = [name for name in tables if name != first]
    differences = {}
    for earlier, later in ((a, b) for i, a in enumerate(trained) for b in trained[i + 1 :]):
        column = "gold_reward" if "gold_reward" in tables[first] else "proxy_reward"
        if column not in tables[first]:
            continue
        values = (tables[later][column] - tables[earlier][column]).reshape(-1, samples)[prompts].mean(1)
        low, high = bootstrap_interval(values)
        differences[f"{later} - {earlier}"] = {column: float(values.mean()), "low": low, "high": high}
    return differences
