"""The claims of the seq2seq study and the criteria by which each is judged, stated before any run."""

from collections.abc import Callable

from research.claims import Claim, Measurement

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
    Claim("s9_against_scalar",
          "The rewriter's token score tells chosen from rejected better than the scalar model", "–",
          "accuracy by token score, minus the scalar model's",
          lambda m: m["fair"]["models"]["rewriter"]["accuracy/seen"] - m["fair"]["models"]["scalar"]["accuracy/seen"],
          low=0.0, note="The token score only counts agreements with the likeliest token. The likelihood of the same "
          "rewriter, which also knows by how much, is right more often than either."),
]  # fmt: skip

LENGTH = [
    Claim("s9_scalar_grows", "Under an annotator who likes length, PPO with the scalar model grows longer", "grows",
          "tokens per answer, minus SFT's",
          _minus(_value("length", "scalar", "length"), _value("length", "sft", "length")), low=0.0),
    Claim("s9_seq2seq_grows_less",
          "Under an annotator who likes length, PPO with the rewriter grows less, at equal steps", "less length bias",
          "tokens per answer under the scalar model, minus the rewriter's",
          _minus(_value("length", "scalar", "length"), _value("length", "seq2seq", "length")), low=0.0),
    Claim("s9_length_gold",
          "Under an annotator who likes length, PPO with the rewriter has the higher gold reward", "higher",
          "gold reward with the rewriter, minus the scalar model's",
          _minus(_value("length", "seq2seq", "gold"), _value("length", "scalar", "gold")), low=0.0),
]  # fmt: skip

REFUSAL = [
    Claim("s9_scalar_refuses", "Under an annotator who likes refusals, PPO with the scalar model refuses more "
          "harmless requests", "refuses", "refusals of harmless, scary-sounding requests, minus SFT's",
          _minus(_value("refusal", "scalar", "refusal_scary"), _value("refusal", "sft", "refusal_scary")), low=0.0),
    Claim("s9_seq2seq_refuses_less",
          "Under an annotator who likes refusals, PPO with the rewriter refuses fewer harmless requests",
          "fewer refusals",
          "refusals under the scalar model, minus the rewriter's",
          _minus(_value("refusal", "scalar", "refusal_scary"), _value("refusal", "seq2seq", "refusal_scary")), low=0.0,
          remark="The difference is real and of no use: both refuse nearly all of them. PPO with the rewriter does so "
          "under every annotator, the fair one too, where PPO with the scalar model refuses few. Refusals are all "
          "alike, so a rewriter agrees with every token of one, and agreement is what it pays for. Its gold reward is "
          "higher because it answers everything else better, and refuses what is unsafe as well."),
]  # fmt: skip

WEAK_RIVAL = ("A weak opponent: models of this size, right on two pairs in three, are over-optimised at once, and PPO "
              "against their scores ends below the SFT policy. The ties, half a win each, are many.")  # fmt: skip
_RIVALS = {"sft": "the SFT policy", "scalar": "PPO with the scalar model", "increments": "PPO-T"}
WINS = [
    Claim(f"s9_beats_{rival}_{kind}", f"PPO with the rewriter beats {name} on {kind} kinds of prompts",
          ".769 on average", f"share of {kind} prompts on which its gold reward is higher, fair annotator",
          _wins("seq2seq", rival, kind), low=0.5, remark="" if rival == "sft" else WEAK_RIVAL)
    for rival, name in _RIVALS.items() for kind in ("seen", "unseen")
]  # fmt: skip

_ABLATED = {
    "no_positive": ("positive rewards", "Positive in the mean, but the seeds differ. Without positive rewards an "
                    "answer can only lose, and a shorter one loses less."),
    "no_negative": ("negative rewards", ""),
    "no_identity": ("identity examples", "The reverse is so, if by little. Identity examples teach to copy, and a "
                    "small rewriter copies too much as it is: nearly eight of ten tokens of rejected answers. What it "
                    "copies it pays for."),
    "unnormalised": ("the division by length", "Answers of this world have nearly one length, under both rewards: "
                     "there is little to divide by."),
}  # fmt: skip
ABLATIONS = [
    *(Claim(f"s9_needs_{key}", f"The method needs {name}", "ablation", "gold reward with them, minus without",
            _minus(_value("fair", "seq2seq", "gold"), _value("fair", key, "gold")), low=0.0, note=note)
      for key, (name, note) in _ABLATED.items()),
    Claim("s9_contrastive", "Centring on offline baselines helps the rewriter's rewards too", "–",
          "gold reward with centring, minus without",
          _minus(_value("fair", "contrastive_seq2seq", "gold"), _value("fair", "seq2seq", "gold")), low=0.0,
          note="The reverse is so, if by little. The baselines' mean is taken off at the last token, so that ending an "
          "answer costs what its earlier tokens earn; the critic, which learns each prompt's value anyway, has nothing "
          "to gain from it."),
]  # fmt: skip


def _unseen(world: str, first: str, second: str, what: str) -> Measure:
    return _minus(_value(world, first, what, "unseen"), _value(world, second, what, "unseen"))


UNSEEN = [
    Claim("s10_scalar_grows", "On unseen kinds of prompts, too, PPO with the scalar model grows longer under an "
          "annotator who likes length", "grows", "tokens per answer to prompts of unseen kinds, minus SFT's",
          _unseen("length", "scalar", "sft", "length"), low=0.0),
    Claim("s10_seq2seq_grows_less",
          "On unseen kinds of prompts, too, PPO with the rewriter grows less, at equal steps, under "
          "an annotator who likes length", "less length bias",
          "tokens per answer to prompts of unseen kinds under the scalar model, minus the rewriter's",
          _unseen("length", "scalar", "seq2seq", "length"), low=0.0),
    Claim("s10_length_gold",
          "On unseen kinds of prompts, too, PPO with the rewriter has the higher gold reward under an "
          "annotator who likes length", "higher",
          "gold reward on unseen kinds with the rewriter, minus the scalar model's",
          _unseen("length", "seq2seq", "scalar", "gold"), low=0.0),
    Claim("s10_seq2seq_refuses_less", "On unseen kinds PPO with the rewriter refuses fewer harmless requests under an "
          "annotator who likes refusals", "fewer refusals",
          "refusals of requests of unseen kinds under the scalar model, minus the rewriter's",
          _unseen("refusal", "scalar", "seq2seq", "refusal_scary"), low=0.0),
]  # fmt: skip

CLAIMS = [*REWRITER, *LENGTH, *REFUSAL, *WINS, *ABLATIONS, *UNSEEN]
