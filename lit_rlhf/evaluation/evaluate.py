"""The ``evaluate`` command: how far a reward model is to be trusted."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.progress import Progress
from lit_rlhf.data.store import write_json
from lit_rlhf.evaluation.benchmark_figures import benchmark_figures
from lit_rlhf.evaluation.benchmarks import BenchmarkFormat, Item, read_benchmarks
from lit_rlhf.evaluation.reward_pictures import (
    benchmark_picture,
    features_picture,
    pairs_picture,
    print_benchmark,
    print_pairs,
)
from lit_rlhf.evaluation.score_tables import write_scores
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.pair_metrics import PairMetrics

_AT_A_TIME = 64  # batches of responses, among which those of similar length go together


def evaluate(
    model: str,
    out: str,
    data: PreferenceDataModule | None = None,
    benchmarks: str | list[str] | None = None,
    format: BenchmarkFormat | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    device: str | None = None,
    attributes: int | dict[str, float] | str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> dict[str, Any]:
    """Measure a reward model on preference pairs and on benchmark files; writes JSON, tables and pictures.

    Every share comes with its number of rows and Wilson's 95 % interval. Equal scores count half, or share the pick;
    for RewardBench, RewardBench 2 and RM-Bench the figures by their authors' rules stand beside ours. What "the longest
    answer wins" and "the shortest answer wins" would reach is shown as well.

    Args:
        model: Hugging Face directory of the reward model.
        out: Folder for ``evaluation.json``, the pictures, and ``scores_NAME.jsonl`` of each benchmark, the scores of
            its rows, which ``lit-rlhf leaderboard`` compares.
        data: Preference pairs: the validation part is measured, as in training.
        benchmarks: Benchmark files (.jsonl, .ndjson, .json, each also with .gz; .parquet) or patterns of them: one, or
            a list.
        format: The format of all benchmark files; by default each file's first row tells. ``reward-bench`` (prompt,
            chosen, rejected, subset): accuracy by subset and section, their mean, and over all rows. ``rm-bench``
            (prompt, domain, three chosen and three rejected responses: concise, detailed, detailed with markdown):
            accuracy of each chosen style (row) against each rejected style (column), easy below the diagonal, hard
            above it.
            ``best-of-n`` (prompt, and responses with scores or lists of chosen and rejected, as in RewardBench 2): how
            often the top-scored response is a best one, and the gold score of what is picked.
        batch_size: Responses in one forward pass.
        max_length: Most tokens of prompt and response in benchmarks. Rows with a longer one are left out and counted;
            None goes by the model's positions alone. For ``data`` see its own ``max_length``.
        device: Where the model runs, such as ``cpu``; None takes the GPU where there is one.
        attributes: Which of its numbers is the score, where its head gives several: one by its name or position, or a
            weighted sum such as ``{helpfulness: 0.7, verbosity: -0.3}``.
        dtype: What the model's body computes in.

    Returns:
        ``model``, ``calibration``, ``pairs`` (figures, tables, counts) and ``benchmarks`` (figures of each by name).

    Raises:
        DataError: If there is nothing to measure, or a row cannot be read.
    """
    if data is None and not benchmarks:
        raise DataError("there is nothing to measure", "options data and benchmarks", "Give at least one of them.")
    tests = read_benchmarks(listed(benchmarks), format) if benchmarks else []
    rewards = RewardModel.load(model, batch_size, attributes, dtype)
    rewards.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"model": model, "calibration": rewards.calibration}
    if data is not None:
        pairs, features = evaluate_pairs(rewards, data)
        write_json(folder / "data.json", data.report())
        result["pairs"] = pairs
        print_pairs(pairs)
        pairs_picture(pairs, folder / "pairs.png")
        features_picture(*features, pairs["figures"].get("feature_separation"), folder / "features.png")
    for test in tests:
        rank_zero_info(f"benchmark {test.name}: {len(test.items):,} rows of format {test.format} in {test.file}")
        scores = benchmark_scores(rewards, test.items, max_length)
        write_scores(folder / f"scores_{test.name}.jsonl", model, test, scores)
        figures = benchmark_figures(test, scores)
        result.setdefault("benchmarks", {})[test.name] = figures
        print_benchmark(test.name, figures)
        benchmark_picture(test.name, figures, folder / f"benchmark_{test.name}.png")
    write_json(folder / "evaluation.json", result)
    return result


def evaluate_pairs(model: RewardModel, data: PreferenceDataModule) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Measure the model on the validation pairs, as training does.

    Args:
        model: The reward model.
        data: Preference pairs; read with the model's tokenizer.

    Returns:
        ``figures`` by name, ``tables`` (by strength, by length gap, reliability) and ``counts`` of the rows kept and
        left out; and the features of up to a thousand chosen and rejected responses, each ``(N, H)``.

    Raises:
        DataError: If there are no validation pairs.
    """
    data.load("pairs", model.name)
    if not data.val_rows:
        raise DataError("has no validation pairs to measure on", "option data", "Give val_sources, or a val_fraction.")
    metrics = PairMetrics()
    progress, done = Progress("evaluate", "pair", len(data.val_rows)), 0
    for batch in data.val_dataloader():
        features = model.sequence_features(batch.chosen.joined(batch.rejected))
        scores = model.network.score(features).cpu()
        chosen, rejected = scores.chunk(2)
        good, bad = features.cpu().chunk(2)
        metrics.update(chosen, rejected, batch, (good, bad))
        done += len(batch)
        progress.tell(done, last=done == len(data.val_rows))
    counts = asdict(data.counts["validation"])
    return {
        "figures": metrics.figures(len(data.source_names) > 1),
        "tables": metrics.tables(),
        "counts": counts,
    }, metrics.separation.features()


def benchmark_scores(model: RewardModel, items: list[Item], max_length: int | None = None) -> list[list[float] | None]:
    """Score the responses of each question; None where one of them, with its prompt, is too long.

    Equal texts are scored once, so that they tie.

    Args:
        model: The reward model.
        items: The questions.
        max_length: Most tokens of prompt and response; never more than the model has positions for.

    Raises:
        DataError: If the model gives a score that is no number.
    """
    texts = list(dict.fromkeys((item.prompt, response) for item in items for response in item.responses))
    lengths = model.lengths([prompt for prompt, _ in texts], [response for _, response in texts])
    limit = min(math.inf if each is None else each for each in (max_length, model.positions))
    fitting = [text for text, length in zip(texts, lengths, strict=True) if length <= limit]
    progress = Progress("evaluate", "response", len(fitting))
    given: list[float] = []
    for first in range(0, len(fitting), _AT_A_TIME * model.batch_size):
        part = fitting[first : first + _AT_A_TIME * model.batch_size]
        given += model.score([prompt for prompt, _ in part], [response for _, response in part])
        progress.tell(len(given), last=len(given) == len(fitting))
    if not all(map(math.isfinite, given)):
        raise DataError("gives scores that are no numbers", model.name, "Its weights are damaged or have overflowed.")
    scores = dict(zip(fitting, given, strict=True))
    return [
        [scores[item.prompt, response] for response in item.responses]
        if all((item.prompt, response) in scores for response in item.responses)
        else None
        for item in items
    ]


def listed(paths: str | list[str]) -> str | list[str]:
    """Paths from the command line, where a list comes as its text."""
    return yaml.safe_load(paths) if isinstance(paths, str) and paths.startswith("[") else paths
