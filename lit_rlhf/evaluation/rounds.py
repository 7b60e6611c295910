"""The ``rounds`` command: what rounds of policy optimisation and reward modelling have changed."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_rlhf.data.batches import stack_sequences
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.store import Store, write_json
from lit_rlhf.data.tool_turns import from_row
from lit_rlhf.evaluation.evaluate import evaluate_pairs
from lit_rlhf.evaluation.round_pictures import print_rounds, rounds_picture
from lit_rlhf.rewards.model import RewardModel
from lit_rlhf.rewards.reward import unit_scale

Figures = dict[str, float]

_OF_REWARD_MODELS = ("accuracy", "true_accuracy")


@dataclass
class Round:
    """What one round left.

    Attributes:
        arm: Rounds of one arm follow each other; each arm becomes a line of the picture.
        round: The round's number.
        comparison: ``comparison.json`` of the SFT policy and the round's policy, by the round's reward model.
        samples: Store with samples of the round's policy, several per prompt.
        reward: Directory of the reward model that the round's policy was trained for.
        next_reward: Directory of the next round's: the same, or what MetaRM made of these samples.
    """

    arm: str
    round: int
    comparison: str
    samples: str
    reward: str
    next_reward: str


def rounds(rounds: list[Round], pairs: PreferenceDataModule, out: str) -> dict[str, Any]:
    """Report on rounds of policy optimisation and MetaRM, round by round; writes JSON, a table and a picture.

    Of each round's policy: gold reward, proxy gain (by how much the round's own reward model scores it above the SFT
    policy, in standard deviations over that model's validation pairs: the zero of a reward model means nothing), win
    rate against the SFT policy, KL, and length, all from the round's comparison. Of the reward models, before and
    after MetaRM: the spread of the scores of one prompt's samples, in the same unit, and the accuracy on pairs.

    Source: Dou et al. 2024, "MetaRM: Shifted Distributions Alignment via Meta-Learning" (arXiv 2405.00438): win
    rates by round, and the spread of scores that shrinks as PPO goes on.

    Args:
        rounds: What each round left.
        pairs: Preference pairs; the validation part is what accuracy is measured on.
        out: Folder for ``rounds.json`` and ``rounds.png``.

    Returns:
        ``rounds``: figures by arm and round; round 0 is the SFT policy's.

    Raises:
        DataError: If there is no round, or what a round left cannot be read.
    """
    if not rounds:
        raise DataError("there are no rounds to report on", "option rounds", "Give at least one.")
    figures: dict[str, dict[str, Figures]] = {}
    measured: dict[str, Figures] = {}
    for each in rounds:
        start, policy = _compared(Path(each.comparison))
        arm = figures.setdefault(each.arm, {"0": start})
        if str(each.round) in arm:
            raise DataError(f"round {each.round} of {each.arm!r} occurs twice", "option rounds")
        arm[str(each.round)] = policy | _reward_models(each, pairs, measured)
    folder = Path(out)
    write_json(folder / "rounds.json", {"rounds": figures})
    print_rounds(figures)
    rounds_picture(figures, folder / "rounds.png")
    return {"rounds": figures}


def _compared(path: Path) -> tuple[Figures, Figures]:
    """Figures of the SFT policy and of the round's, from their comparison."""
    try:
        result = json.loads(path.read_text("utf-8"))
        policies = [(name, x) for name, x in result.items() if isinstance(x, dict) and "response_length" in x]
        (first, start), (_, policy) = policies
    except (OSError, ValueError, AttributeError) as error:
        hint = "Give the comparison.json of `lit-rlhf compare` with two policies: the SFT policy and the round's."
        raise DataError(f"is no comparison of two policies: {error}", str(path), hint) from None
    renamed = [{name.replace(f"_vs_{first}", ""): value for name, value in each.items()} for each in (start, policy)]
    if "proxy_reward" in start:
        for each in renamed:
            each["proxy_gain"] = each["proxy_reward"] - start["proxy_reward"]
    return renamed[0], renamed[1]


def _reward_models(each: Round, pairs: PreferenceDataModule, measured: dict[str, Figures]) -> Figures:
    """Spread and accuracy before and after; each model's accuracy is measured once."""
    found: Figures = {}
    rows = Store(each.samples).rows()
    for when, path in (("before", each.reward), ("after", each.next_reward)):
        model = RewardModel.load(path)
        if path not in measured:
            measured[path] = evaluate_pairs(model, pairs)[0]["figures"]
        found[f"spread_{when}"] = sample_spread(model, rows)
        for name, end in product(_OF_REWARD_MODELS, ("", "_low", "_high")):
            if name + end in measured[path]:
                found[f"{name}_{when}{end}"] = measured[path][name + end]
    return found | {"distinct_samples": float(np.mean([len(set(row["responses"])) for row in rows]))}


def sample_spread(model: RewardModel, rows: list[dict[str, Any]]) -> float:
    """Standard deviation of the scores of one prompt's responses, mean over prompts.

    Args:
        model: A reward model that was measured: the unit is its standard deviation over its validation pairs.
        rows: Of a store that ``BaselineModule`` wrote.

    Raises:
        DataError: If the model brings no calibration.
    """
    prompts = [tuple(map(from_row, row["messages"])) for row in rows for _ in row["responses"]]
    truncated = [cut for row in rows for cut in row["truncated"]]
    texts = [text for row in rows for text in row["responses"]]
    sequences = stack_sequences(*model.renderer.rows_ids(prompts, texts, truncated), model.renderer.pad_id)
    scores = model.score_sequences(sequences).cpu()
    parts = scores.split([len(row["responses"]) for row in rows])
    spread = torch.stack([part.std(unbiased=False) for part in parts]).mean()
    return float(spread) * unit_scale(model.calibration, model.name)
