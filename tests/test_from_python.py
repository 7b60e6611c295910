"""The modules in a plain script, without the command line: every verb of Lightning, any loader, checkpoints."""

import functools
import subprocess
import sys

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

import lit_rlhf
from lit_rlhf import (
    BaselineModule,
    Collate,
    ContrastiveRewardModule,
    LoRA,
    MetaRewardModule,
    Optimizer,
    PPOModule,
    PreferenceDataModule,
    PythonReward,
    RewardModel,
    Sampling,
    ScalarReward,
    ScalarRewardModule,
    Seq2SeqRewardModule,
    SFTModule,
)
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.options import plain
from lit_rlhf.policy import NoBaseline, PPOSettings
from lit_rlhf.world import WorldPairs

PAIRS = [
    {"prompt": f"Tell me about lamp {i}.", "chosen": "It is a red lamp.", "rejected": "No." + " no" * (i % 3)}
    for i in range(16)
]
FAST = Optimizer(lr=1e-3, schedule="constant", warmup=0.0)


def trainer(path, **options) -> Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**quiet, default_root_dir=path, **{"max_steps": 2, "num_sanity_val_steps": 0, **options})


def length(prompt: str, response: str) -> float:
    return len(response) / 10


def loader(module, rows=PAIRS, size=4) -> DataLoader:
    return DataLoader(rows, batch_size=size, collate_fn=Collate(module.view, module.renderer))


@pytest.fixture(scope="module")
def samples(tiny_model, tmp_path_factory) -> str:
    """A store of samples for MetaRM, made without the command line."""
    folder = tmp_path_factory.mktemp("samples")
    module = BaselineModule(tiny_model, None, str(folder / "store"), k=4, sampling=Sampling(max_new_tokens=6))
    rows = trainer(folder).predict(module, loader(module))
    assert [row["prompt"] for batch in rows for row in batch] == [pair["prompt"] for pair in PAIRS]
    assert all(len(row["responses"]) == 4 for batch in rows for row in batch)
    return str(folder / "store")


def ppo(model, **options) -> PPOModule:
    settings = PPOSettings(minibatch_size=4)
    return PPOModule(model, length, sampling=Sampling(max_new_tokens=6), settings=settings, optimizer=FAST, **options)


MODULES = {
    "sft": lambda model, samples: SFTModule(model, FAST),
    "sft with adapters": lambda model, samples: SFTModule(model, FAST, LoRA(r=2)),
    "scalar": lambda model, samples: ScalarRewardModule(model, FAST, micro_batch_size=2),
    "scalar with adapters": lambda model, samples: ScalarRewardModule(model, FAST, LoRA(r=2)),
    "contrastive": lambda model, samples: ContrastiveRewardModule(model, FAST, objective="swav"),
    "meta": lambda model, samples: MetaRewardModule(model, samples, FAST, inner_batch_size=4),
    "seq2seq": lambda model, samples: Seq2SeqRewardModule(model, FAST, examples=1),
    "ppo": lambda model, samples: ppo(model),
    "ppo with adapters": lambda model, samples: ppo(model, lora=LoRA(r=2)),
    "reinforce": lambda model, samples: ppo(model, advantages=NoBaseline()),
}


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", MODULES)
def test_fit_load_test_predict_and_resume_with_a_plain_loader(name, tiny_model, samples, tmp_path):
    module = MODULES[name](tiny_model, samples)
    first = trainer(tmp_path, max_steps=2)
    first.fit(module, loader(module), loader(module, PAIRS[:6]))
    first.save_checkpoint(path := tmp_path / "module.ckpt")

    options = {"reward": length} if isinstance(module, PPOModule) else {}
    loaded = type(module).load_from_checkpoint(path, weights_only=True, **options)
    assert weights(loaded).keys() == weights(module).keys()
    for key, value in weights(module).items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0, msg=key)

    measured = trainer(tmp_path).test(loaded, loader(loaded, PAIRS[:6]), verbose=False)[0]
    assert measured
    assert all(metric.startswith("test/") for metric in measured)
    again = trainer(tmp_path).test(module, loader(module, PAIRS[:6]), ckpt_path=path, verbose=False)[0]
    assert again == pytest.approx(measured)

    resumed = MODULES[name](tiny_model, samples)
    trainer(tmp_path, max_steps=4).fit(resumed, loader(resumed), ckpt_path=path)
    moved = [key for key, value in weights(resumed).items() if not torch.equal(value, weights(module)[key])]
    assert moved


@pytest.mark.parametrize("name", MODULES)
def test_hyperparameters_are_plain_values_and_make_the_module_again(name, tiny_model, samples):
    module = MODULES[name](tiny_model, samples)
    found = dict(module.hparams)
    assert plain(found) == found
    assert found["optimizer"]["lr"] == 1e-3
    options = {"reward": length} if isinstance(module, PPOModule) else {}
    again = type(module)(**{**found, **options})
    assert {**again.hparams, "reward": None} == {**found, "reward": None}


class Outputs(Callback):
    """Keeps what the steps return."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(outputs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sft", {"loss"}), ("scalar", {"loss", "chosen", "rejected"}), ("ppo", {"metrics", "examples"})],
)
def test_steps_return_what_callbacks_want(name, expected, tiny_model, samples, tmp_path):
    module, seen = MODULES[name](tiny_model, samples), Outputs()
    trainer(tmp_path, max_steps=1, callbacks=[seen]).fit(module, loader(module))
    assert expected <= set(seen.seen[0])


def test_forward_scores_pairs_and_samples_responses(tiny_model, samples):
    module = ScalarRewardModule(tiny_model)
    module.configure_model()
    batch = next(iter(loader(module)))
    chosen, rejected = module.eval()(batch)
    assert chosen.shape == rejected.shape == (4,)
    torch.testing.assert_close(module(batch.chosen), chosen)
    policy = ppo(tiny_model)
    policy.configure_model()
    assert len(policy(next(iter(loader(policy)))).texts) == 4


def test_the_data_module_needs_no_trainer_and_says_what_it_lacks(tiny_model):
    data = PreferenceDataModule(WorldPairs(40), tokenizer=tiny_model, view="pairs", max_length=200, batch_size=8)
    data.setup("fit")
    assert 0 < len(next(iter(data.train_dataloader()))) <= 8
    with pytest.raises(DataError, match=r"option view: is missing(.|\n)*view=MODULE\.view"):
        PreferenceDataModule(WorldPairs(4), tokenizer=tiny_model).setup()
    with pytest.raises(DataError, match=r"option tokenizer: is missing(.|\n)*tokenizer=MODULE\.tokenizer"):
        PreferenceDataModule(WorldPairs(4), view="pairs").setup()


def test_a_template_of_the_data_must_be_the_modules(tiny_model, tmp_path):
    data = PreferenceDataModule(
        WorldPairs(20), tokenizer=tiny_model, view="pairs", template="plain", max_length=200, batch_size=8
    )
    with pytest.raises(DataError, match=r"renderer=data\.renderer"):
        trainer(tmp_path).fit(ScalarRewardModule(tiny_model), data)
    module = ScalarRewardModule(tiny_model, renderer=data.renderer)
    trainer(tmp_path, max_steps=1).fit(module, data)
    trainer_path = tmp_path / "templated.ckpt"
    module.trainer.save_checkpoint(trainer_path)
    loaded = ScalarRewardModule.load_from_checkpoint(trainer_path)
    assert loaded.renderer.fingerprint == data.renderer.fingerprint


def test_rows_that_a_view_cannot_use_are_named(tiny_model):
    module = ScalarRewardModule(tiny_model)
    collate = Collate(module.view, module.renderer, max_length=40)
    for rows, what in (
        ([PAIRS[0], {"prompt": "p", "response": "one"}], r"row 1.*rejected"),
        ([{"nothing": 1}], "row 0.*no known format"),
        ([{"prompt": "p", "chosen": "word " * 80, "rejected": "no"}], "row 0.*leaves no room"),
    ):
        with pytest.raises(DataError, match=what):
            collate(rows)


def test_a_reward_is_an_object_a_function_or_its_name(tiny_model, tiny_reward_model):
    for reward in (length, PythonReward(length), PythonReward("math.dist"), ScalarReward(tiny_reward_model)):
        assert ppo_with(tiny_model, reward).reward is not None
    with pytest.raises(DataError, match="cannot be imported"):
        PythonReward("no.such.function")
    with pytest.raises(DataError, match="Give a Reward"):
        ppo_with(tiny_model, 3)


def ppo_with(model, reward) -> PPOModule:
    return PPOModule(model, reward)


def test_a_checkpoint_runs_no_code_that_nobody_has_imported(tiny_model, tmp_path):
    module = ppo(tiny_model)
    trainer(tmp_path, max_steps=1).fit(module, loader(module))
    module.trainer.save_checkpoint(path := tmp_path / "ppo.ckpt")
    with pytest.raises(DataError, match="reward=your_function"):
        PPOModule.load_from_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["reward"] = {"class_path": "antigravity.Reward", "init_args": {}}
    torch.save(content, path)
    with pytest.raises(DataError, match="no imported module"):
        PPOModule.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules


def test_an_exported_model_scores_as_the_module_does(tiny_model, tmp_path):
    module = ScalarRewardModule(tiny_model, FAST)
    trainer(tmp_path).fit(module, loader(module))
    model = RewardModel.load(module.export(tmp_path / "model"))
    chosen, _ = module.eval()(next(iter(loader(module))))
    scores = model.score([pair["prompt"] for pair in PAIRS[:4]], [pair["chosen"] for pair in PAIRS[:4]])
    assert list(scores) == pytest.approx(chosen.tolist(), abs=1e-5)


def test_every_public_name_is_there_and_importing_the_package_imports_nothing_heavy():
    assert all(getattr(lit_rlhf, name) is not None for name in lit_rlhf.__all__)
    assert set(lit_rlhf.__all__) <= set(dir(lit_rlhf))
    code = "import sys, lit_rlhf; print(sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lit_rlhf.Nothing  # noqa: B018


def test_what_is_neither_number_nor_text_becomes_its_name():
    assert plain(functools.partial(length)).startswith("functools.partial")
    assert plain(length).endswith("test_from_python.length")
