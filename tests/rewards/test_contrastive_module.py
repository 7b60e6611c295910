import json
import math

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.batches import PairBatch
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.functional import bradley_terry_loss, sinkhorn
from lit_rlhf.rewards import ContrastiveRewardModule
from lit_rlhf.world import WorldPairs

VARIANTS = [(objective, contrast) for objective in ("simcse", "swav") for contrast in ("pairs", "differences")]
each_variant = pytest.mark.parametrize(("objective", "contrast"), VARIANTS)


def built(model: str, **options) -> tuple[ContrastiveRewardModule, PairBatch]:
    """A module with its network, without a Trainer, and a batch of eight pairs with margins and soft labels."""
    datamodule = PreferenceDataModule([WorldPairs(8, seed=1)], batch_size=8, val_fraction=0.0)
    datamodule.load("pairs", model)
    torch.manual_seed(0)
    module = ContrastiveRewardModule(model, **options)
    module.configure_model()
    batch = next(iter(datamodule.train_dataloader()))
    batch.margin, batch.target = torch.linspace(0, 1, 8), torch.linspace(0.5, 1, 8)
    return module.train(), batch


def logged(module: ContrastiveRewardModule, monkeypatch) -> dict[str, Tensor]:
    metrics: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_dict", lambda given, **options: metrics.update(given))
    return metrics


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def log_softmax(values: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value - max(values)) for value in values)) + max(values)
    return [value - total for value in values]


def simcse(a: list[Tensor], b: list[Tensor]) -> float:
    rows = [log_softmax([cosine(x, y) / 0.05 for y in b]) for x in a]
    return -sum(row[i] for i, row in enumerate(rows)) / len(a)


def swav(a: list[Tensor], b: list[Tensor], prototypes: Tensor) -> float:
    scores = [[[cosine(x, c) for c in prototypes] for x in view] for view in (a, b)]
    total = 0.0
    for mine, other in (scores, scores[::-1]):
        assigned = sinkhorn(torch.tensor(other), 0.05, 3).tolist()
        for row, target in zip(mine, assigned, strict=True):
            predicted = log_softmax([score / 0.1 for score in row])
            total -= sum(q * p for q, p in zip(target, predicted, strict=True))
    return total / len(a)


# ---------------------------------------------------------------------- the loss


@each_variant
def test_the_loss_is_the_reward_loss_of_both_views_plus_beta_times_the_contrast(
    tiny_model, monkeypatch, objective, contrast
):
    module, batch = built(tiny_model, objective=objective, contrast=contrast)
    beta = {"simcse": 1.0, "swav": {"pairs": 0.1, "differences": 0.5}[contrast]}[objective]
    views = []
    features = module.features
    monkeypatch.setattr(module, "features", lambda batch: views.append(features(batch)) or views[-1])
    metrics = logged(module, monkeypatch)
    loss, chosen, rejected = module.training_loss(batch)

    scores, compared = [], []
    for view in views:
        assert view.shape == (16, module.network.head.in_features)
        good, bad = view.detach()[:8], view.detach()[8:]
        weight = module.network.head.weight.detach()[0]
        scores.append((good @ weight, bad @ weight))
        pairs, differences = [*good, *bad], [*(good - bad), *(bad - good)]
        compared.append(pairs if contrast == "pairs" else differences)
    reward_loss = sum(bradley_terry_loss(*each, batch.margin, batch.target) for each in scores) / 2
    expected = simcse(*compared) if objective == "simcse" else swav(*compared, module.prototypes.detach())

    assert metrics["train/reward_loss"].item() == pytest.approx(reward_loss.item(), rel=1e-5)
    assert metrics["train/contrastive_loss"].item() == pytest.approx(expected, rel=1e-3)
    assert loss.item() == pytest.approx(reward_loss.item() + beta * expected, rel=1e-3)
    torch.testing.assert_close(chosen, (scores[0][0] + scores[1][0]) / 2)
    torch.testing.assert_close(rejected, (scores[0][1] + scores[1][1]) / 2)
    assert (views[0] != views[1]).any(1).all(), "under masks of their own"


def test_options_replace_the_defaults_of_the_paper(tiny_model, monkeypatch):
    parts = {}
    options = {"temperature": 0.3, "epsilon": 0.2, "iterations": 5, "prototypes": 7, "beta": 2.0, "dropout": 0.4}
    monkeypatch.setattr(
        "lit_rlhf.rewards.contrastive_module.swav_loss", lambda *given: parts.update(given=given) or torch.tensor(3.0)
    )
    module, batch = built(tiny_model, objective="swav", **options)
    metrics = logged(module, monkeypatch)
    loss, _, _ = module.training_loss(batch)
    assert parts["given"][2].shape == (7, module.network.head.in_features)
    assert parts["given"][3:] == (0.3, 0.2, 5)
    assert loss.item() == pytest.approx(metrics["train/reward_loss"].item() + 2.0 * 3.0)
    assert module.network.model.model.layers[0].self_attn.attention_dropout == 0.4


@pytest.mark.parametrize(("contrast", "count"), [("pairs", 50), ("differences", 20)])
def test_prototypes_are_learnt(tiny_model, contrast, count):
    module, batch = built(tiny_model, objective="swav", contrast=contrast)
    assert module.prototypes.shape == (count, module.network.head.in_features)
    torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(count))
    module.training_loss(batch)[0].backward()
    assert (module.prototypes.grad.norm(dim=1) > 0).all()
    assert not hasattr(built(tiny_model, objective="simcse")[0], "prototypes")


def test_validation_sees_no_dropout(tiny_model):
    module, batch = built(tiny_model, dropout=0.5)
    module.eval()
    with torch.no_grad():
        assert torch.equal(module.features(batch), module.features(batch))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beta", -0.1),
        ("prototypes", 1),
        ("temperature", 0.0),
        ("epsilon", 0.0),
        ("iterations", 0),
        ("dropout", 0.0),
        ("dropout", 1.0),
    ],
)
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(DataError, match=f"{option}: is {value}"):
        ContrastiveRewardModule("a/model", **{option: value})


# ---------------------------------------------------------------------- whole runs


def options(folder, model: str, **init) -> dict:
    source = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 64, "seed": 2}}
    given = {"model": model, "optimizer": {"lr": 3e-3}, **init}
    return {
        "model": {"class_path": "ContrastiveRewardModule", "init_args": given},
        "data": {"sources": source, "val_fraction": 0.25, "batch_size": 8},
        "trainer": {"max_epochs": 2, "log_every_n_steps": 1},
        "export": {"directory": str(folder / "model")},
        "checkpoint": {"every_n_train_steps": 4},
    }


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@each_variant
def test_a_run_learns_and_hands_over_a_plain_model(lit, tiny_model, tmp_path, objective, contrast, lora):
    cli = lit("fit", tmp_path, options(tmp_path, tiny_model, objective=objective, contrast=contrast, lora=lora))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/contrastive_loss" in line]
    assert len(steps) == cli.trainer.global_step > 10
    for name in ("train/reward_loss", "train/contrastive_loss"):
        assert steps[-1][name] != steps[0][name]
    beta = cli.model.beta
    for line in steps:
        total = line["train/reward_loss"] + beta * line["train/contrastive_loss"]
        assert line["train/loss"] == pytest.approx(total, rel=1e-5)
    assert "val/feature_separation" in lines[-1]

    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert ("prototypes" in saved) == (objective == "swav")
    if objective == "swav":
        assert torch.equal(saved["prototypes"], cli.model.prototypes)
        assert (cli.model.prototypes.norm(dim=1) - 1).abs().max() > 1e-4, "they moved"

    batch = next(iter(cli.datamodule.val_dataloader())).chosen
    theirs, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        ids = torch.where(batch.mask, batch.ids, theirs.config.pad_token_id)
        logits = theirs.eval()(input_ids=ids, attention_mask=batch.mask.long()).logits[:, 0]
        torch.testing.assert_close(logits, cli.model.network.eval()(batch), atol=1e-4, rtol=1e-4)


def test_a_resumed_run_equals_one_that_never_stopped(lit, tiny_model, dies_at, monkeypatch, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lit("fit", whole, options(whole, tiny_model, objective="swav"))
    given = options(broken, tiny_model, objective="swav")
    dies_at(ContrastiveRewardModule, 7)
    with pytest.raises(RuntimeError, match="went down"):
        lit("fit", broken, given)
    monkeypatch.undo()
    lit("fit", broken, given, "--ckpt_path", str(broken / "checkpoints" / "last.ckpt"))
    lines = [without_throughput((folder / "metrics.jsonl").read_text()) for folder in (broken, whole)]
    assert lines[0] == lines[1]
    weights = "model/model.safetensors"
    assert (broken / weights).read_bytes() == (whole / weights).read_bytes()
