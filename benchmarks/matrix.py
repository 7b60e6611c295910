"""How much of the machine's rate of fp32 matrix products reward-model training reaches."""

import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.bench import Bench
from benchmarks.common import Seconds, Work
from benchmarks.peers import scalar
from benchmarks.reward_training import RewardTraining
from lit_rlhf.data.preparation import Row

ASKED = {256: 0.70, 512: 0.75}


def product_rate(size: int = 1024, repetitions: int = 10) -> float:
    """Operations per CPU second of products of square fp32 matrices."""
    a, b, out, meter = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size), Seconds()
    torch.mm(a, b, out=out)
    meter.start()
    for _ in range(repetitions):
        torch.mm(a, b, out=out)
    meter.stop()
    return 2.0 * size**3 * repetitions / meter.cost


def training_flops(rows: list[Row], layer: int, keys_values: int, hidden: int, layers: int) -> float:
    """Operations that one epoch cannot do without.

    6 per matrix parameter and token (forward 2, backward 4), a prompt that both responses share counted once; and in
    attention 12 H per layer and per pair of a token with one that it sees: 2 products of 2 H, 3 times with backward.
    Of the last layer, only the two scored tokens are needed, and the keys and values of the others.

    Args:
        rows: Tokenised pairs.
        layer: Parameters in the matrices of a layer.
        keys_values: Those of them that give keys and values.
        hidden: Width H of the model.
        layers: Blocks of the model.
    """
    tokens = seen = seen_by_scored = 0
    for row in rows:
        shared, answers = len(row.prompt), (len(row.chosen), len(row.rejected))
        tokens += shared + sum(answers)
        seen += sum(n * (n + 1) // 2 for n in (shared, *answers)) + shared * sum(answers)
        seen_by_scored += 2 * shared + sum(answers)
    products = tokens * ((layers - 1) * layer + keys_values) + 2 * len(rows) * (layer - keys_values)
    return 6.0 * products + 12.0 * hidden * ((layers - 1) * seen + seen_by_scored)


class MatrixShare:
    """Reward-model training on the pairs of ``rm_short`` at a width.

    Args:
        bench: Models and pairs.
        hidden: The width.
        pairs: How many.
    """

    def __init__(self, bench: Bench, hidden: int, pairs: int) -> None:
        self.path, data = bench.model("scalar", hidden), partial(bench.short_pairs, pairs)
        self.task = RewardTraining(self.path, data, str(bench.folder / "trl"))
        config = scalar(self.path).config
        # Llama: queries, keys, values, output; gate, up, down.
        keys_values, feed_forward = 2 * hidden**2, 3 * hidden * config.intermediate_size
        layer = 2 * hidden**2 + keys_values + feed_forward
        self.flops = training_flops(data().train_rows, layer, keys_values, hidden, config.num_hidden_layers)

    def share(self) -> tuple[float, float, Work]:
        """Share reached in one epoch, the product rate around it, and the work."""
        meter, before = Seconds(), product_rate()
        work = self.task.ours(meter)
        rate = (before + product_rate()) / 2
        return self.flops / meter.cost / rate, rate, work


def measure(bench: Bench, hidden: int, repetitions: int) -> dict[str, Any]:
    """The row ``matrix_share_256`` or ``matrix_share_512``."""
    pairs = bench.sizes.pairs if hidden == 256 else bench.sizes.wide_pairs
    task, shares, rates = MatrixShare(bench, hidden // 8 if bench.quick else hidden, pairs), [], []
    for _ in range(repetitions):
        share, rate, _ = task.share()
        shares.append(share)
        rates.append(rate)
        print(f"  {share:.3f} of {rate / 1e9:.1f} GFLOP/s", flush=True)
    return {
        "id": f"matrix_share_{hidden}",
        "what": f"share of the fp32 matrix-product rate reached in reward-model training, hidden {hidden}",
        "peer": "–",
        "better": "higher",
        "ratio": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
        "at_least": ASKED[hidden],
        "repetitions": repetitions,
        "parity": None,
        "gflops": statistics.median(rates) / 1e9,
    }
