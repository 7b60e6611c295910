"""Several rewards as one: their mean, their minimum, or their mean less what they disagree by."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from lit_rlhf.data.batches import Completions
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.together import from_all
from lit_rlhf.rewards.reward import Reward, on_last_token

Combination = Literal["mean", "worst", "lower_bound"]


class EnsembleReward(Reward):
    """Combines what several rewards give each response token, so that the policy cannot please one model alone.

    Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization" (arXiv 2310.02743): the mean, the
    worst case, or the mean less λ times the spread (there the variance; here the standard deviation, which has the
    rewards' own unit). Members should share one unit: `ScalarReward` divides by each model's own spread by default.
    The ensemble's scale is its first member's: let the critic start from that model.

    Args:
        members: The rewards.
        reduce: ``mean``, ``worst`` (minimum over the members) or ``lower_bound`` (mean − λ · population standard
            deviation).
        coefficient: λ; used by ``lower_bound`` only.

    Raises:
        DataError: If there are no members, or λ is negative.
    """

    def __init__(self, members: list[Reward], reduce: Combination = "mean", coefficient: float = 1.0) -> None:
        super().__init__()
        if not members:
            raise DataError("is empty", "EnsembleReward, members", "Name at least one reward.")
        if not coefficient >= 0:
            hint = "Give 0 or more: a negative one would reward disagreement."
            raise DataError(f"is {coefficient}", "EnsembleReward, coefficient", hint)
        self.members: Sequence[Reward] = nn.ModuleList(members)  # type: ignore[assignment]
        self.reduce: Combination = reduce
        self.coefficient = coefficient

    def load(self, renderer: Renderer, policy_fingerprint: str) -> Self:
        """Load every member."""
        for member in self.members:
            member.load(renderer, policy_fingerprint)
        return self._named()

    def _named(self) -> Self:
        self.scale = self.members[0].scale
        how = f"lower_bound {self.coefficient:.6g}" if self.reduce == "lower_bound" else self.reduce
        self.fingerprint = f"ensemble {how} of [{'; '.join(member.fingerprint for member in self.members)}]"
        return self

    @property
    def proxy(self) -> Reward:
        """The same combination of the members' proxies."""
        proxies = [member.proxy for member in self.members]
        if all(proxy is member for proxy, member in zip(proxies, self.members, strict=True)):
            return self
        return EnsembleReward(proxies, self.reduce, self.coefficient)._named()

    def critic_scale(self, path: str) -> float:
        """That of the member whose model it is."""
        return max(member.critic_scale(path) for member in self.members)

    def baseline_mean(self, completions: Completions) -> Tensor | None:
        """Mean of the members' baseline means ``(N,)``; None unless every member has baselines, and the mean counts.

        What the worst member, or the lower bound, says of the baselines is not known from their means.
        """
        if self.reduce != "mean":
            return None
        means = [member.baseline_mean(completions) for member in self.members]
        known = [mean for mean in means if mean is not None]
        return torch.stack(known).mean(0) if len(known) == len(means) else None

    def forward(self, completions: Completions) -> Tensor:
        """The combined rewards of the response tokens ``(N, T)``.

        Members are compared by what they give a whole response: one may reward tokens and another the last one only.
        """
        rewards = self._rewards(completions)
        totals = rewards.sum(2)  # (M, N)
        if self.reduce == "worst":
            return rewards[totals.argmin(0), torch.arange(totals.shape[1], device=totals.device)]
        mean = rewards.mean(0)
        if self.reduce == "mean":
            return mean
        return mean - on_last_token(self.coefficient * totals.std(0, unbiased=False), completions)

    def diagnostics(self, completions: Completions) -> dict[str, Tensor]:
        """``disagreement``, each member's mean as ``member_I`` (from 1), and the members' own as ``member_I/NAME``.

        Disagreement is the population standard deviation, over the members, of a response's total reward, averaged
        over the responses.
        """
        totals = from_all(self._rewards(completions).sum(2).t()[: completions.counted]).t()  # (M, N), of all processes
        found = {"disagreement": totals.std(0, unbiased=False).mean()}
        for number, (member, total) in enumerate(zip(self.members, totals, strict=True), 1):
            found[f"member_{number}"] = total.mean()
            own = member.diagnostics(completions)
            found |= {f"member_{number}/{name}": value for name, value in own.items()}
        return found

    def _rewards(self, completions: Completions) -> Tensor:
        """What each member gives ``(M, N, T)``."""
        return self.remembered(completions, self._ask)

    def _ask(self, completions: Completions) -> Tensor:
        return torch.stack([member(completions) for member in self.members])
