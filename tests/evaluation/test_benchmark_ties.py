import math
import random

import numpy as np
import pytest

from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.benchmark_ties import WEIGHTS, Answers, check_ties_id, ties_figures


def by_columns(rows: list[Answers]) -> dict[str, float]:
    """The same figures another way: arrays over questions, with NumPy's rules for division by zero."""
    numbers = {form: {r.id.split(":")[1]: r for r in rows if r.id.startswith(form)} for form in ("ref", "tied")}
    gap = lambda row: np.sort(row.correct)[0] - np.sort(row.incorrect)[-1]  # noqa: E731
    both = [n for n in numbers["ref"] if n in numbers["tied"]]
    spread = np.array([np.ptp(numbers["tied"][n].correct) for n in both])
    tied = np.array([gap(numbers["tied"][n]) for n in both])
    smaller = np.minimum(tied, [gap(numbers["ref"][n]) for n in both])
    with np.errstate(all="ignore"):
        margin = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    found = {
        "tied_accuracy": np.mean([gap(row) > 0 for row in numbers["tied"].values()]),
        "ref_accuracy": np.mean([gap(row) > 0 for row in numbers["ref"].values()]),
        "correctness_preferred": (tied > spread).mean(),
        "correctness_preferred_hard": (smaller > spread).mean(),
        "correctness_margin_score": margin.mean(),
    }
    score = (
        3 * found["tied_accuracy"]
        + 3 * found["ref_accuracy"]
        + 2 * found["correctness_preferred"]
        + 2 * found["correctness_preferred_hard"]
    ) / 10 + found["correctness_margin_score"] / 100
    return found | {"score": score}


def asked(generator: random.Random, form: str, number: int) -> Answers:
    """Coarse scores: many gaps and spreads are zero."""
    several = 1 if form == "ref" else generator.randint(2, 4)
    draw = lambda n, level: [level + generator.randint(0, 2) / 2 for _ in range(n)]  # noqa: E731
    return Answers(f"{form}:{number}", draw(several, generator.choice([0, 1, 2])), draw(generator.randint(1, 6), 0))


@pytest.mark.parametrize("seed", range(20))
def test_the_composite_and_its_parts_by_another_way(seed):
    generator = random.Random(seed)
    rows = [asked(generator, form, number) for form in ("ref", "tied") for number in range(12)]
    rows += [asked(generator, "ref", 50), asked(generator, "tied", 60)]  # without a counterpart: accuracy alone
    generator.shuffle(rows)
    found = ties_figures(rows)
    for name, value in by_columns(rows).items():
        assert found[name] == pytest.approx(value), name
    assert (found["ref"], found["tied"], found["both"]) == (13, 13, 12)


def test_a_perfect_model_is_above_one_and_the_worst_below_zero():
    best = [Answers("ref:1", [9.0], [0.0]), Answers("tied:1", [9.0, 9.0], [0.0])]
    worst = [Answers("ref:1", [0.0], [9.0]), Answers("tied:1", [0.0, 0.0], [9.0])]
    assert ties_figures(best)["score"] == pytest.approx(1.01)
    assert ties_figures(worst)["score"] == pytest.approx(-0.01)
    assert sum(WEIGHTS.values()) == pytest.approx(1.01)


def test_by_hand():
    rows = [
        Answers("ref:0", [3.0], [1.0, 0.0]),  # gap 2
        Answers("tied:0", [4.0, 3.0], [1.0]),  # gap 2, spread 1: preferred, also hard, ratio 2
        Answers("ref:1", [1.5], [1.0]),  # gap .5
        Answers("tied:1", [3.0, 2.0], [0.0]),  # gap 2, spread 1: preferred, not hard, ratio .5
        Answers("ref:2", [1.0], [1.0]),  # gap 0: wrong
        Answers("tied:2", [5.0, 1.0], [0.0]),  # gap 1, spread 4: right, not preferred, ratio 0
    ]
    found = ties_figures(rows)
    margin = (math.tanh(1) + math.tanh(-0.5) + math.tanh(-1)) / 3
    assert found["correctness_margin_score"] == pytest.approx(margin)
    assert [found[name] for name in WEIGHTS][:4] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert found["score"] == pytest.approx(0.3 + 0.2 + 0.4 / 3 + 0.2 / 3 + 0.01 * margin)


def test_without_a_question_in_both_forms_there_is_no_score():
    found = ties_figures([Answers("ref:0", [3.0], [1.0]), Answers("tied:7", [4.0, 3.0], [1.0])])
    assert found["score"] is None
    assert (found["ref_accuracy"], found["tied_accuracy"], found["correctness_preferred"]) == (1, 1, None)
    assert ties_figures([])["score"] is None


@pytest.mark.parametrize("name", ["7", "tied:", "tied:a", "Ref:1", "ref:1:2", "ref 1"])
def test_other_ids_are_refused(name):
    with pytest.raises(DataError, match=r"field 'id': rows of Ties are 'ref:N' or 'tied:N', found '") as raised:
        check_ties_id(name)
    assert "another name" in str(raised.value)


def test_these_ids_are_right():
    for name in ("ref:0", "tied:51", "tied:07"):
        check_ties_id(name)


def test_rows_of_one_id_are_one_question_and_a_single_correct_answer_has_no_spread():
    parts = [Answers("tied:1", [4.0], [1.0]), Answers("tied:01", [3.0], [2.5, 0.0]), Answers("ref:1", [2.0], [1.0])]
    assert ties_figures(parts) == ties_figures([Answers("tied:1", [4.0, 3.0], [1.0, 2.5, 0.0]), parts[2]])
    alone = ties_figures([parts[0], parts[2]])
    assert (alone["correctness_preferred_hard"], alone["correctness_margin_score"]) == (1, 1)
