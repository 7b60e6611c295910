import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_rlhf.data.collate import Collate
from lit_rlhf.rewards import ScalarReward, ScalarRewardModule
from lit_rlhf.rewards.metrics import wilson_interval
from lit_rlhf.world import Annotator, WorldPairs


def world(size: int, name: str, flip_rate: float) -> dict:
    annotator = {"class_path": "lit_rlhf.world.Annotator", "init_args": {"flip_rate": flip_rate}}
    options = {"size": size, "seed": len(name), "name": name, "annotator": annotator}
    return {"class_path": "lit_rlhf.world.WorldPairs", "init_args": options}


@pytest.fixture(scope="module")
def run(lit, tiny_model, tmp_path_factory):
    """A finished training run on two sources, the second with many flipped labels."""
    folder = tmp_path_factory.mktemp("reward")
    data = {"sources": [world(90, "clean", 0.0), world(60, "noisy", 0.4)], "val_fraction": 0.3, "batch_size": 16}
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_model, "optimizer": {"lr": 1e-3}}},
        "data": data,
        "trainer": {"max_epochs": 1},
        "export": {"directory": str(folder / "model")},
    }
    return lit("fit", folder, options), str(folder / "model")


@pytest.fixture(scope="module")
def judged(run):
    """Every validation pair scored alone by the exported model, in plain transformers."""
    cli, path = run
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()

    def score(ids: list[int]) -> float:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits.item()

    return [
        SimpleNamespace(
            source=row.record.source,
            right=row.record.chosen_is_better,
            scores=(score(row.prompt + row.chosen), score(row.prompt + row.rejected)),
            lengths=(len(row.chosen), len(row.rejected)),
        )
        for row in cli.datamodule.val_rows
    ]


@pytest.mark.parametrize("source", [None, "clean", "noisy"])
def test_accuracies_are_shares_of_the_validation_pairs(run, judged, source):
    metrics, suffix = run[0].trainer.callback_metrics, f"/{source}" if source else ""
    pairs = [pair for pair in judged if source in (None, pair.source)]
    assert len(pairs) > 10

    wins = [pair.scores[0] > pair.scores[1] for pair in pairs]
    truly = [won == pair.right for won, pair in zip(wins, pairs, strict=True)]
    longer = [1 + (a > b) - (a < b) for a, b in (pair.lengths for pair in pairs)]
    assert metrics[f"val/longer_wins{suffix}"].item() == pytest.approx(sum(longer) / 2 / len(pairs))
    for name, hits in (("accuracy", wins), ("true_accuracy", truly)):
        assert metrics[f"val/{name}{suffix}"].item() == pytest.approx(sum(hits) / len(pairs))
        low, high = wilson_interval(sum(hits), len(pairs))
        assert metrics[f"val/{name}{suffix}_low"].item() == pytest.approx(low)
        assert metrics[f"val/{name}{suffix}_high"].item() == pytest.approx(high)
    if source == "noisy":
        assert wins != truly  # or else the true labels were not looked at


def test_loss_is_bradley_terry_over_all_pairs(run, judged):
    differences = torch.tensor([a - b for a, b in (pair.scores for pair in judged)])
    expected = torch.log1p(torch.exp(-differences)).mean().item()
    assert run[0].trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, abs=1e-5)


def test_calibration_travels_with_the_model(run, judged, renderer):
    scores = torch.tensor([score for pair in judged for score in pair.scores])
    calibration = json.loads(Path(run[1], "config.json").read_text())["calibration"]
    assert calibration["mean"] == pytest.approx(scores.mean().item(), abs=1e-5)
    assert calibration["std"] == pytest.approx(scores.std(unbiased=False).item(), abs=1e-5)
    assert calibration["n"] == len(scores)
    assert calibration["data"] == "clean, noisy"
    assert ScalarReward(run[1]).load(renderer, "policy").scale == pytest.approx(1 / calibration["std"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_exported_scores_are_equal_in_plain_transformers(run, side):
    cli, path = run
    renderer, rows = cli.datamodule.renderer, cli.datamodule.val_rows[:9]
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side=side)
    texts = [renderer.prompt_text(row.record.prompt) + row.record.chosen + tokenizer.eos_token for row in rows]
    batch = next(iter(cli.datamodule.val_dataloader()))
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        theirs = model(**inputs).logits.squeeze(-1)
        ours = cli.model.network.eval()(batch.chosen[:9])
    assert (inputs["input_ids"] == tokenizer.pad_token_id).any()
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert ours.std() > 0.01


def test_no_score_depends_on_the_rows_beside_it(run):
    batch = next(iter(run[0].datamodule.val_dataloader()))
    module = run[0].model.eval()
    with torch.no_grad():
        chosen, rejected = module.scores(module.features(batch))
        alone = [module.network(batch.rejected[i : i + 1]).item() for i in range(len(batch))]
    torch.testing.assert_close(rejected, torch.tensor(alone), rtol=0, atol=1e-5)
    assert chosen.shape == rejected.shape == (len(batch),)


def test_training_tells_the_pairs_of_a_batch_apart(tiny_model):
    module = ScalarRewardModule(tiny_model)
    module.configure_model()
    batch = Collate(module.view, module.renderer)(list(WorldPairs(16, seed=1).records()))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss, chosen, rejected = module.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < 0.2 < 0.5 < losses[0]
    assert (chosen > rejected).float().mean() >= 15 / 16


def test_pairs_without_true_labels_leave_true_accuracy_out(lit, tiny_model, tmp_path):
    pairs = [
        {"prompt": record.prompt[-1].content, "chosen": record.chosen, "rejected": record.rejected}
        for record in WorldPairs(24, seed=5, annotator=Annotator()).records()
    ]
    # Names like those that files have; neither may get in the way of the metrics that are named after them.
    files = [tmp_path / "train.jsonl", tmp_path / "hh.v1.jsonl"]
    for part, file in enumerate(files):
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[part::2]))
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": {"model": tiny_model}},
        "data": {"sources": [str(file) for file in files], "val_fraction": 0.4, "batch_size": 8},
        "trainer": {"max_steps": 1, "val_check_interval": 1, "check_val_every_n_epoch": None},
    }
    metrics = lit("fit", tmp_path / "run", options).trainer.callback_metrics
    assert {"val/accuracy", "val/accuracy/train", "val/accuracy/hh.v1", "val/longer_wins/train"} <= metrics.keys()
    assert not any(name.startswith("val/true_accuracy") for name in metrics)
