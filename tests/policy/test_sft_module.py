import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_rlhf.policy import SFTModule


def options(model: str, **trainer) -> dict:
    demonstrations = {"class_path": "lit_rlhf.world.WorldDemonstrations", "init_args": {"size": 60}}
    return {
        "model": {"class_path": "SFTModule", "init_args": {"model": model, "optimizer": {"lr": 3e-3}}},
        "data": {"sources": demonstrations, "val_fraction": 0.25, "batch_size": 8, "val_batch_size": 4},
        "trainer": trainer,
    }


@pytest.fixture(scope="module")
def run(lit, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    chosen = options(tiny_model, max_epochs=1)
    return lit("fit", folder, {**chosen, "export": {"directory": str(folder / "model")}}), str(folder / "model")


def nll(model, prompt: list[int], response: list[int]) -> list[float]:
    """Negative log-likelihood of every response token, from a forward pass of its row alone."""
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return [-logprobs[len(prompt) + t - 1, token].item() for t, token in enumerate(response)]


def test_loss_is_the_mean_over_response_tokens_alone(run):
    cli, _ = run
    module = cli.model.eval()
    batch = next(iter(cli.datamodule.train_dataloader()))
    sequences = batch.sequences
    tokens = [
        value
        for ids, start, stop in zip(
            sequences.ids.tolist(), sequences.prompt_length.tolist(), sequences.length.tolist(), strict=True
        )
        for value in nll(module.network.model, ids[:start], ids[start:stop])
    ]
    assert len(set(sequences.length.tolist())) > 1
    assert module.loss(batch).item() == pytest.approx(sum(tokens) / len(tokens), abs=1e-5)


def test_every_response_ends_with_an_end_that_is_learnt(run):
    sequences = next(iter(run[0].datamodule.train_dataloader())).sequences
    assert {ids[-1] for ids in sequences.response_lists()} == {run[0].datamodule.renderer.eos_id}


def test_perplexity_is_over_all_tokens_of_ragged_batches(run, lit, tmp_path):
    cli, exported = run
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    rows = [nll(model, row.prompt, row.chosen) for row in cli.datamodule.val_rows]
    mean = sum(map(sum, rows)) / sum(map(len, rows))
    assert len(rows) % 4 != 0  # the last batch is smaller
    metrics = cli.trainer.callback_metrics
    assert metrics["val/loss"].item() == pytest.approx(mean, abs=1e-5)
    assert metrics["val/perplexity"].item() == pytest.approx(math.exp(mean), rel=1e-5)
    tested = lit("test", tmp_path, options(exported)).trainer.callback_metrics
    assert tested["test/perplexity"].item() == pytest.approx(math.exp(mean), rel=1e-5)


def test_export_gives_the_same_logits_in_plain_transformers(run):
    cli, path = run
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    row = cli.datamodule.val_rows[0]
    messages = [{"role": "user", "content": row.record.prompt[-1].content}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt == row.prompt
    ids = torch.tensor([row.prompt + row.chosen])
    with torch.no_grad():
        ours, theirs = cli.model.network.eval().model(input_ids=ids).logits, model(input_ids=ids).logits
    assert torch.equal(ours, theirs)


def test_training_learns_and_changes_the_model(run, tiny_model):
    cli, _ = run
    before = SFTModule(tiny_model)
    before.configure_model()
    before.eval()
    batch = next(iter(cli.datamodule.val_dataloader()))
    with torch.no_grad():
        assert cli.model.eval().loss(batch) < before.loss(batch) - 0.2


def test_dropout_is_on_in_training_and_off_in_validation(lit, write_model, tmp_path, monkeypatch):
    modes = {"training_step": set(), "validation_step": set()}
    for name, seen in modes.items():
        original = getattr(SFTModule, name)

        def spy(self, batch, batch_idx, original=original, seen=seen):
            seen.update(each.training for each in self.network.modules() if isinstance(each, torch.nn.Dropout))
            return original(self, batch, batch_idx)

        monkeypatch.setattr(SFTModule, name, spy)
    lit("fit", tmp_path, options(write_model("gpt2"), max_epochs=1))
    assert modes == {"training_step": {True}, "validation_step": {False}}
