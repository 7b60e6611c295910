from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lit_rlhf.cli.throughput import without_throughput
from lit_rlhf.data.batches import PairBatch, stack_sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.functional import difference_loss
from lit_rlhf.rewards import MetaRewardModule
from lit_rlhf.rewards.samples import PolicySamples, mean_difference
from lit_rlhf.world import WorldDemonstrations, WorldPrompts

WORDS = [record.chosen for record in WorldDemonstrations(8).records()]
SAMPLES = [
    [WORDS[0], WORDS[1], WORDS[0], WORDS[2]],
    [WORDS[3], WORDS[3], WORDS[3], WORDS[3]],
    [WORDS[4], WORDS[5], WORDS[1], WORDS[6]],
    [WORDS[7], WORDS[2], WORDS[7], WORDS[2]],
]


def write_samples(folder, samples=SAMPLES, policy="some"):
    store = Store(folder / "samples")
    store.begin({"policy": policy})
    rows = []
    for record, texts in zip(WorldPrompts(len(samples)).records(), samples, strict=True):
        messages = [{"role": message.role, "content": message.content} for message in record.prompt]
        rows.append({"messages": messages, "responses": texts, "truncated": [False] * len(texts), "scores": None})
    store.write_part(0, rows)
    store.finish(1)
    return str(store.directory)


@pytest.fixture
def store(tmp_path):
    return write_samples(tmp_path)


# ---------------------------------------------------------------------- samples


def test_equal_responses_count_once_and_prompts_without_two_are_left_out(store, tiny_model):
    renderer = Renderer.load(tiny_model)
    samples = PolicySamples(store, renderer, batch_size=3, max_length=128)
    assert samples.alike == 1
    sequences, counts = samples.batch(0)
    assert sorted(counts) == [2, 3, 4]
    assert len(sequences) == 9
    texts = {renderer.response_text(ids) for ids in sequences.response_lists()}
    assert texts == {text for row in (0, 2, 3) for text in SAMPLES[row]}


def test_an_epoch_shows_every_prompt_once_in_an_order_of_its_own(store, tiny_model):
    samples = PolicySamples(store, Renderer.load(tiny_model), batch_size=1, max_length=128)
    epochs = [[tuple(samples.batch(3 * epoch + i)[0].ids[0].tolist()) for i in range(3)] for epoch in range(6)]
    assert all(len(set(epoch)) == 3 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again = PolicySamples(store, Renderer.load(tiny_model), batch_size=1, max_length=128)
    assert tuple(again.batch(4)[0].ids[0].tolist()) == epochs[1][1]


def test_a_store_of_equal_responses_is_refused(tmp_path, tiny_model):
    store = write_samples(tmp_path, [[WORDS[0], WORDS[0]]])
    with pytest.raises(DataError, match="two different responses"):
        PolicySamples(store, Renderer.load(tiny_model), 2, 128)


def test_a_prompt_too_long_loses_its_beginning(store, tiny_model):
    renderer = Renderer.load(tiny_model)
    for length in (60, 128):
        sequences, _ = PolicySamples(store, renderer, 3, length).batch(0)
        assert sequences.ids.shape[1] <= length
        ends = [ids[:n][-1].item() for ids, n in zip(sequences.ids, sequences.prompt_length, strict=True)]
        assert set(ends) == {renderer.prompt_ids(next(iter(WorldPrompts(1).records())).prompt)[-1]}


def test_the_mean_over_prompts_weighs_every_prompt_alike():
    scores = torch.randn(9)
    expected = (
        difference_loss(scores[None, :2]) + difference_loss(scores[None, 2:6]) + difference_loss(scores[None, 6:])
    ) / 3
    torch.testing.assert_close(mean_difference(scores, [2, 4, 3]), expected)


# ---------------------------------------------------------------------- the step


class Linear(nn.Module):
    """r = w · (share of each token in the row): a network whose gradients can be written down."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.model = SimpleNamespace(config=SimpleNamespace())

    def features(self, sequences):
        counts = nn.functional.one_hot(sequences.ids, len(self.weight)) * sequences.mask[..., None]
        return counts.sum(1).double() / sequences.length[:, None]

    def score(self, features):
        return features @ self.weight

    def forward(self, sequences):
        return self.score(self.features(sequences))


def by_hand(weight, pairs, groups, eta):
    """θ − lr·∇L(θ + η ∇J(θ)) with lr = 1, in numpy: J over rows of features, L over (chosen, rejected) features."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    up = np.zeros_like(weight)
    for rows in groups:
        k = len(rows)
        for i in range(k):
            for j in range(i + 1, k):
                gap = weight @ (rows[i] - rows[j])
                slope = sigmoid(abs(gap)) * (1 - sigmoid(abs(gap)))
                up += 2 / k**2 * slope * np.sign(gap) * (rows[i] - rows[j]) / len(groups)
    there = weight + eta * up
    good, bad = pairs
    down = np.mean([-(1 - sigmoid(there @ (g - b))) * (g - b) for g, b in zip(good, bad, strict=True)], axis=0)
    return weight - down


@pytest.mark.parametrize("eta", [0.0, 3.0])
def test_one_step_is_the_hand_computed_first_order_step(eta):
    torch.manual_seed(0)
    weight = torch.randn(7, dtype=torch.float64)
    module = MetaRewardModule("nowhere", "nowhere", inner_lr=eta, max_grad_norm=0.0)
    module.network = Linear(weight)
    chosen = stack_sequences([[1], [2]], [[3, 4], [5]], 0)
    rejected = stack_sequences([[1], [2]], [[6], [4, 4, 1]], 0)
    zero, one = torch.zeros(2), torch.ones(2)
    batch = PairBatch(chosen, rejected, zero.long(), zero.bool(), zero, one, zero, [])
    samples = stack_sequences([[1], [1], [1], [2], [2]], [[3], [4, 5], [6, 6], [1], [2, 3]], 0)
    module.samples = SimpleNamespace(batch=lambda step: (samples, [3, 2]))
    run_one_step(module, batch)
    features = lambda sequences: Linear(weight).features(sequences).numpy()  # noqa: E731
    rows = features(samples)
    expected = by_hand(weight.numpy(), (features(chosen), features(rejected)), [rows[:3], rows[3:]], eta)
    np.testing.assert_allclose(module.network.weight.detach().numpy(), expected, atol=1e-12)


def run_one_step(module, batch):
    """One training step with plain gradient descent of rate 1, without a Trainer."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    module.lr_schedulers = lambda: SimpleNamespace(step=lambda: None)
    module.log_training = lambda *args: None
    module.log = lambda *args, **kwargs: None
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0)
    module.training_step(batch, 0)


@pytest.fixture(scope="module")
def train(lit, tiny_reward_model, tmp_path_factory):
    """Train for a few steps; keyword arguments replace options of the module."""
    store = write_samples(tmp_path_factory.mktemp("store"))

    def run(folder, *words, steps=3, **module):
        given = {"model": tiny_reward_model, "samples": store, "optimizer": {"lr": 1e-3}, "inner_batch_size": 2}
        pairs = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 40}}
        options = {
            "model": {"class_path": "MetaRewardModule", "init_args": given | module},
            "data": {"sources": pairs, "val_fraction": 0.2, "batch_size": 8},
            "trainer": {"max_steps": steps, "log_every_n_steps": 1},
            "checkpoint": {"every_n_train_steps": 2},
        }
        return lit("fit", folder, options, *words)

    return run


def weights(cli):
    return torch.cat([parameter.detach().flatten() for parameter in cli.model.network.parameters()])


def test_a_precision_that_scales_the_loss_is_refused():
    module = MetaRewardModule("nowhere", "nowhere")
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()))
    with pytest.raises(DataError, match=r"trainer\.precision: scales the loss"):
        module.on_fit_start()


def test_without_an_inner_step_it_is_the_scalar_module(train, lit, tiny_reward_model, tmp_path):
    meta = train(tmp_path / "meta", inner_lr=0.0)
    pairs = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 40}}
    init = {"model": tiny_reward_model, "optimizer": {"lr": 1e-3}}
    options = {
        "model": {"class_path": "ScalarRewardModule", "init_args": init},
        "data": {"sources": pairs, "val_fraction": 0.2, "batch_size": 8},
        "trainer": {"max_steps": 3, "gradient_clip_val": 1.0},
    }
    torch.testing.assert_close(weights(meta), weights(lit("fit", tmp_path / "plain", options)), rtol=0, atol=1e-6)


def test_steps_of_every_kind_change_the_outcome(train, tmp_path):
    found = [
        weights(train(tmp_path / f"{kind} {rate}", inner_lr=rate, inner_step=kind))
        for kind, rate in (("plain", 0.0), ("plain", 1.0), ("unit", 1.0), ("relative", 0.1))
    ]
    assert all(not torch.equal(found[0], other) for other in found[1:])
    assert len({each.sum().item() for each in found}) == 4


def dies_before_step_3(self, batch, batch_idx):
    if self.trainer.global_step == 3:
        raise RuntimeError("the machine went down")


def test_a_resumed_run_equals_an_uninterrupted_one(train, tmp_path):
    whole = train(tmp_path / "whole", steps=5, inner_lr=0.5, inner_step="unit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaRewardModule, "on_train_batch_start", dies_before_step_3)
        with pytest.raises(RuntimeError, match="went down"):
            train(tmp_path / "parts", steps=5, inner_lr=0.5, inner_step="unit")
    checkpoint = str(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    resumed = train(tmp_path / "parts", "--ckpt_path", checkpoint, steps=5, inner_lr=0.5, inner_step="unit")
    assert torch.equal(weights(whole), weights(resumed))
    whole, parts = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    assert without_throughput(parts) == without_throughput(whole)


def test_a_run_does_not_go_on_with_other_samples(train, tmp_path):
    train(tmp_path / "run", steps=2)
    other = write_samples(tmp_path, policy="another")
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match="policy: the store has 'another'"):
        train(tmp_path / "again", "--ckpt_path", checkpoint, steps=4, samples=other)


def test_the_inner_step_raises_the_difference_and_is_taken_back(tiny_reward_model, tmp_path, train):
    cli = train(tmp_path / "run", steps=1)
    module = cli.model
    module.manual_backward = lambda loss: loss.backward()
    module.inner_lr, module.inner_step = 0.02, "relative"
    start = weights(cli)
    step = module.global_step
    before, difference = module._move_up()
    sequences, counts = module.samples.batch(step)
    with torch.no_grad():
        after = mean_difference(module.network(sequences), counts)
    assert after > difference
    moved = (weights(cli) - start).norm() / start.norm()
    assert moved.item() == pytest.approx(0.02, rel=0.05)
    assert sum(value.numel() for _, value in before) <= sum(p.numel() for p in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())
    for parameter, value in before:
        parameter.data.copy_(value)
    assert torch.equal(weights(cli), start)
