"""Does PPO here learn as fast as TRL's last PPO (1.12.0)? Rewards after equal samples, same models and prompts.

Needs the extra ``bench``, which brings that version. Both start from one SFT policy and one reward model of the
embedded world, whose scores have a standard deviation of 1; both see 64 prompts an iteration, sample at temperature 1,
and have the same learning rates, KL coefficient, clipping, minibatches and number of passes. What differs is each
library's own: here gradients are clipped; there they are not, the critic's loss weighs .1, and the score stands one
token behind the end. Every few iterations the policy answers the same unseen prompts, outside the measured time; the
answers get the gold reward and that of the reward model, which both sides optimise. Two questions, stated beforehand:
at the end and on average over the measured iterations, is the difference of the reward model's score, and that of the
gold reward, above, below or around 0, judged by a 95 % interval over seeds?

python -m benchmarks.ppo_learning --seeds 5 --iterations 40
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from benchmarks.peers import quietly
from lit_rlhf.evaluation.statistics import student_interval
from lit_rlhf.networks.optimizer import Optimizer
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import KLPenalty, PPOModule, PPOSettings
from lit_rlhf.policy.rollout import complete, seeded_generator
from lit_rlhf.rewards import ScalarReward
from lit_rlhf.world import Annotator, WorldPrompts, gold_reward
from research.studies.lab import NEW_TOKENS, QUIET, Lab, train_policy

BATCH, MINIBATCH, LR, KL = 64, 16, 3e-4, 0.1


class Judge:
    """Rewards of a policy's answers to the same unseen prompts, at several times of a training."""

    def __init__(self, lab: Lab, reward_model: str, every: int, prompts: int = 300) -> None:
        self.lab, self.every = lab, every
        data = lab.prompts(1, 128)
        data.val_sources = [WorldPrompts(prompts, lab.seed, "val")]
        data.load("prompts")
        self.data, self.gold, self.proxy, self.spent = data, [], [], 0.0
        self.reward = ScalarReward(reward_model, scale=1.0)
        self.reward.load(data.renderer, lab.policy)

    @torch.no_grad()
    def __call__(self, iteration: int, model: Any) -> None:
        if iteration % self.every:
            return
        start, state = time.process_time(), torch.get_rng_state()
        gold: list[float] = []
        proxy: list[float] = []
        for number, batch in enumerate(self.data.val_dataloader()):
            generator = seeded_generator(torch.device("cpu"), "judge", self.lab.seed, number)
            found = complete(
                PolicyNetwork(model), batch, self.data.renderer, Sampling(max_new_tokens=NEW_TOKENS), generator
            )
            answers = zip(found.records, found.texts, strict=True)
            gold += [gold_reward(record.prompt[-1].content, text) for record, text in answers]
            proxy += self.reward(found).sum(1).tolist()
        self.proxy.append(float(np.mean(proxy)))
        self.gold.append(float(np.mean(gold)))
        torch.set_rng_state(state)
        self.spent += time.process_time() - start


def ours(lab: Lab, reward_model: str, iterations: int, judge: Judge) -> float:
    """Train here; returns CPU seconds."""

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            judge(trainer.global_step, pl_module.networks.policy.model)

    start = time.process_time()
    module = PPOModule(
        lab.policy,
        ScalarReward(reward_model, scale=1.0),
        critic=reward_model,
        sampling=Sampling(max_new_tokens=NEW_TOKENS),
        settings=PPOSettings(minibatch_size=MINIBATCH),
        kl=KLPenalty(KL),
        optimizer=Optimizer(lr=LR, schedule="constant", warmup=0.0, betas=(0.9, 0.999)),
        critic_lr=LR,
        seed=lab.seed,
    )
    data = lab.prompts(BATCH * iterations, BATCH)
    Trainer(**QUIET, max_steps=iterations, max_epochs=-1, callbacks=[Watch()]).fit(module, datamodule=data)
    return time.process_time() - start - judge.spent


def theirs(lab: Lab, reward_model: str, iterations: int, judge: Judge, folder: Path) -> float:
    """Train with TRL; returns CPU seconds."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            judge(state.global_step, model.policy)

    start = time.process_time()
    tokenizer: Any = AutoTokenizer.from_pretrained(reward_model, padding_side="left")  # with a padding token
    data = lab.prompts(BATCH * iterations, BATCH)
    data.load("prompts")
    prompts = Dataset.from_dict({"input_ids": [row.prompt for row in data.train_rows]})
    config = PPOConfig(
        output_dir=str(folder), report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, seed=lab.seed,
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", num_sample_generations=0,
        per_device_train_batch_size=BATCH, gradient_accumulation_steps=1, num_mini_batches=BATCH // MINIBATCH,
        local_rollout_forward_batch_size=BATCH, total_episodes=BATCH * iterations, num_ppo_epochs=1,
        response_length=NEW_TOKENS, stop_token="eos", temperature=1.0, kl_coef=KL, learning_rate=LR,
        lr_scheduler_type="constant", gamma=1.0, lam=0.95,
    )  # fmt: skip

    def scalar() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)

    def causal() -> Any:
        model = AutoModelForCausalLM.from_pretrained(lab.policy, dtype=torch.float32)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        return model

    trainer = PPOTrainer(
        config, tokenizer, causal(), causal(), scalar(), prompts, scalar(), eval_dataset=prompts, callbacks=[Watch()]
    )
    with quietly():
        trainer.train()
    return time.process_time() - start - judge.spent


def scaled(lab: Lab) -> str:
    """A reward model whose scores have a standard deviation of 1, for libraries that take them as they are."""
    module = lab.scalar()
    lab.fit(module, lab.everything(32), 500)
    reward = lab.export(module, "unscaled")
    network = RewardNetwork(reward, 1 / module.network.model.config.calibration["std"])  # type: ignore[union-attr]
    module.network = network
    network.model.config.calibration = None
    return lab.export(module, "reward")


def measure(seed: int, folder: Path, iterations: int, every: int) -> dict[str, Any]:
    """Both libraries under one seed."""
    train_policy(folder, "200k", 26000, lr=4e-3)
    lab = Lab(seed, folder, 9600, 600, Annotator(temperature=0.0), Optimizer(lr=1e-3), 32)
    reward_model, found = scaled(lab), {}
    for name in ("here", "trl"):
        judge = Judge(lab, reward_model, every)
        judge(0, AutoModelForCausalLM.from_pretrained(lab.policy, dtype=torch.float32))
        judge.spent = 0.0
        torch.manual_seed(seed)
        np.random.seed(seed)  # TRL shuffles its minibatches with it
        if name == "here":
            seconds = ours(lab, reward_model, iterations, judge)
        else:
            seconds = theirs(lab, reward_model, iterations, judge, folder / "trl")
        found[name] = {"gold": judge.gold, "proxy": judge.proxy, "cpu_seconds": round(seconds, 1)}
        for kind in ("proxy", "gold"):
            print(f"seed {seed}, {name}, {kind}: {' '.join(f'{x:+.3f}' for x in found[name][kind])}", flush=True)
        print(f"seed {seed}, {name}: {seconds:.1f} CPU s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--out", default="runs/bench/ppo_learning")
    options = parser.parse_args()
    if options.every > options.iterations:
        parser.error("--every must not exceed --iterations")
    torch.set_num_threads(1)
    folder = Path(options.out)
    rows = [measure(seed, folder, options.iterations, options.every) for seed in range(options.seeds)]
    summary: dict[str, Any] = {"seeds": rows}
    for kind in ("proxy", "gold"):
        differences = np.array([np.subtract(row["here"][kind], row["trl"][kind]) for row in rows])[:, 1:]
        for when, values in (("final", differences[:, -1]), ("mean", differences.mean(1))):
            summary[f"{kind}_{when}_difference"] = [float(values.mean()), *student_interval(values)]
    ratios = [row["trl"]["cpu_seconds"] / row["here"]["cpu_seconds"] for row in rows]
    summary["speed_ratio"] = float(np.median(ratios))
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), "utf-8")
    print(json.dumps({name: value for name, value in summary.items() if name != "seeds"}, indent=2))


if __name__ == "__main__":
    main()
