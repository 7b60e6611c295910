"""Minibatches of a rollout that several processes share, and the means of what is measured on them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_rlhf.networks.together import from_all, largest_of_all, mean_of_all, processes, rank


@dataclass
class Part:
    """One process's part of a minibatch.

    Attributes:
        rows: Which rows of the rollout ``(n,)``, at least one: a process that is left without any takes one that counts
            nothing, since all must compute together.
        counted: How many of them count.
        whole: The rows of the minibatch, those of all processes.
    """

    rows: Tensor
    counted: int
    whole: Tensor

    def weight(self, mask: Tensor) -> Tensor:
        """What turns a mean over this part's tokens into its contribution to that over the minibatch's.

        The mean over the processes of what they contribute is the mean over all tokens; gradients are averaged alike.

        Args:
            mask: Real tokens of the whole rollout ``(N, T)``.
        """
        return mask[self.rows[: self.counted]].sum() * processes() / mask[self.whole].sum()


def minibatches(rows: Tensor, size: int, at_once: int | None = None) -> list[list[Part]]:
    """This process's parts of the minibatches that some rows are cut into, in this order.

    Args:
        rows: Rows of the rollout, the same on all processes ``(N,)``.
        size: Rows of a minibatch per process; the last one has fewer.
        at_once: Cut each part further, so that at most this many rows are computed at a time.
    """
    found = []
    for whole in rows.split(size * processes()):
        most = -(-len(whole) // processes())  # rows of a process
        parts = whole.tensor_split(processes())[rank()].tensor_split(-(-most // (at_once or most)))
        found.append([Part(part if len(part) else whole[:1], len(part), whole) for part in parts])
    return found


def added(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of what the parts of a minibatch contribute to its figures; the extremes of their ratios."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    extremes = {"ratio_min": columns["ratio_min"].amin(), "ratio_max": columns["ratio_max"].amax()}
    return {name: column.sum() for name, column in columns.items()} | extremes


def assembled(parts: list[Part], found: list[Tensor | None], width: int) -> Tensor | None:
    """What the processes have found for their parts of a rollout, as one tensor ``(N, T)`` on all of them.

    Args:
        parts: This process's.
        found: What it found for each ``(n, at most T)``; None where there is nothing to be found.
        width: T.
    """
    own = [
        F.pad(x, (0, width - x.shape[1]))[: part.counted] for part, x in zip(parts, found, strict=True) if x is not None
    ]
    if not own:
        return None
    order = from_all(torch.cat([part.rows[: part.counted] for part in parts])).argsort()
    return from_all(torch.cat(own))[order]


def averaged(collected: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over minibatches and processes of scalars, but the least ``ratio_min`` and the largest ``ratio_max``.

    ``first_ratio`` is the largest of the first minibatch.
    """
    means = {name: torch.stack([each[name] for each in collected]).mean() for name in collected[0]}
    highest = torch.stack([each["ratio_max"] for each in collected])
    lowest = torch.stack([each["ratio_min"] for each in collected]).amin()
    found = dict(zip(means, mean_of_all(torch.stack(list(means.values()))), strict=True))
    extremes = largest_of_all(torch.stack([-lowest, highest.amax(), highest[0]]))
    return {**found, "ratio_min": -extremes[0], "ratio_max": extremes[1], "first_ratio": extremes[2]}
