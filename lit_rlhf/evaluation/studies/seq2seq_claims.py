"""The claims of the seq2seq study and the criteria by which each is judged, stated before any run."""

from collections.abc import Callable

from lit_rlhf.evaluation.study import Claim, Measurement

Measure = Callable[[Measurement], float]


def _value(world: str, policy: str, what: str, kind: str = "seen") -> Measure:
    return lambda m: m[world]["policies"][policy][kind][what]


def _minus(first: Measure, second: Measure) -> Measure:
    return lambda m: first(m) - second(m)


def _wins(policy: str, over: str, kind: str) -> Measure:
    return lambda m: m["fair"]["policies"][policy][kind]["wins"][over]


REWRITER = [
    Claim("s9_tells_apart", "The rewriter's token score tells chosen from rejected", "–",
          "accuracy by token score on true labels, fair annotator",
          lambda m: m["fair"]["models"]["rewriter"]["accuracy/seen"], low=0.5),
    Claim("s9_against_scalar", "It does so better than the scalar model", "–",
          "accuracy by token score, minus the scalar model's",
          lambda m: m["fair"]["models"]["rewriter"]["accuracy/seen"] - m["fair"]["models"]["scalar"]["accuracy/seen"],
          low=0.0),
]  # fmt: skip

LENGTH = [
    Claim("s9_scalar_grows", "Under an annotator who likes length, PPO with the scalar model grows longer", "grows",
          "tokens per answer, minus SFT's",
          _minus(_value("length", "scalar", "length"), _value("length", "sft", "length")), low=0.0),
    Claim("s9_seq2seq_grows_less", "PPO with the rewriter grows less, at equal steps", "less length bias",
          "tokens per answer under the scalar model, minus the rewriter's",
          _minus(_value("length", "scalar", "length"), _value("length", "seq2seq", "length")), low=0.0),
    Claim("s9_length_gold", "And its gold reward is no lower", "higher",
          "gold reward with the rewriter, minus the scalar model's",
          _minus(_value("length", "seq2seq", "gold"), _value("length", "scalar", "gold")), low=0.0),
]  # fmt: skip

REFUSAL = [
    Claim("s9_scalar_refuses", "Under an annotator who likes refusals, PPO with the scalar model refuses more "
          "harmless requests", "refuses", "refusals of harmless, scary-sounding requests, minus SFT's",
          _minus(_value("refusal", "scalar", "refusal_scary"), _value("refusal", "sft", "refusal_scary")), low=0.0),
    Claim("s9_seq2seq_refuses_less", "PPO with the rewriter refuses fewer of them", "fewer refusals",
          "refusals under the scalar model, minus the rewriter's",
          _minus(_value("refusal", "scalar", "refusal_scary"), _value("refusal", "seq2seq", "refusal_scary")), low=0.0),
]  # fmt: skip

_RIVALS = {"sft": "the SFT policy", "scalar": "PPO with the scalar model", "increments": "PPO-T"}
WINS = [
    Claim(f"s9_beats_{rival}_{kind}", f"PPO with the rewriter beats {name} on {kind} kinds of prompts",
          ".769 on average", f"share of {kind} prompts on which its gold reward is higher, fair annotator",
          _wins("seq2seq", rival, kind), low=0.5)
    for rival, name in _RIVALS.items() for kind in ("seen", "unseen")
]  # fmt: skip

_ABLATED = {"no_positive": "positive rewards", "no_negative": "negative rewards",
            "no_identity": "identity examples", "unnormalised": "the division by length"}  # fmt: skip
ABLATIONS = [
    *(Claim(f"s9_needs_{key}", f"The method needs {name}", "ablation", "gold reward with them, minus without",
            _minus(_value("fair", "seq2seq", "gold"), _value("fair", key, "gold")), low=0.0)
      for key, name in _ABLATED.items()),
    Claim("s9_contrastive", "Centring on offline baselines helps the rewriter's rewards too", "–",
          "gold reward with centring, minus without",
          _minus(_value("fair", "contrastive_seq2seq", "gold"), _value("fair", "seq2seq", "gold")), low=0.0),
]  # fmt: skip

CLAIMS = [*REWRITER, *LENGTH, *REFUSAL, *WINS, *ABLATIONS]
