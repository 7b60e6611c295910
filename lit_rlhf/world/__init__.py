"""The embedded synthetic world: readable English from a grammar, with a known true reward.

Requests and answers come from `WorldDemonstrations`, `WorldPairs` and `WorldPrompts`; `gold_reward` knows how good an
answer is, `Annotator` how a fallible person would label it, `write_base_model` makes a tiny model to start from.
"""

from lit_rlhf.world.annotator import Annotator, Verdict, prompt_bias
from lit_rlhf.world.families import FAMILIES, parse_prompt
from lit_rlhf.world.families.safety import is_refusal
from lit_rlhf.world.gold import GOLD_WEIGHTS, gold_components, gold_reward
from lit_rlhf.world.presets import PRESETS, tokenizer, write_base_model
from lit_rlhf.world.sources import WorldDemonstrations, WorldPairs, WorldPrompts
from lit_rlhf.world.splits import SPLITS, Split, count_prompts
from lit_rlhf.world.writer import write_response

__all__ = [
    "FAMILIES",
    "GOLD_WEIGHTS",
    "PRESETS",
    "SPLITS",
    "Annotator",
    "Split",
    "Verdict",
    "WorldDemonstrations",
    "WorldPairs",
    "WorldPrompts",
    "count_prompts",
    "gold_components",
    "gold_reward",
    "is_refusal",
    "parse_prompt",
    "prompt_bias",
    "tokenizer",
    "write_base_model",
    "write_response",
]
