"""Peak memory of an iteration of PPO: four networks against one trunk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapter_files import save_adapters
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import export, fingerprint
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.world import tokenizer

SCRIPT = """
import json, os, resource, sys
from lightning import Trainer
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.sampling import Sampling
from lit_rlhf.policy import PPOModule, PPOSettings
from lit_rlhf.rewards import ScalarReward
from lit_rlhf.world import WorldPrompts

model, reward, trunk = sys.argv[1], sys.argv[2], sys.argv[3] == "trunk"
def peak():  # a process inherits what getrusage counts from the one that started it, but not this
    lines = open("/proc/self/status").read().splitlines() if os.path.exists("/proc/self/status") else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
import torch._dynamo  # what optimisers import late is no memory of theirs
before = peak()
data = PreferenceDataModule(WorldPrompts(8), tokenizer=model, view="prompts", val_fraction=0.0,
                            batch_size=8, max_length=80)
module = PPOModule(model, ScalarReward(reward, scale=1.0), lora=LoRA(r=4) if trunk else None,
                   sampling=Sampling(max_new_tokens=8), settings=PPOSettings(minibatch_size=4))
Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=2, use_distributed_sampler=False).fit(module, datamodule=data)
size = sum(parameter.numel() for parameter in module.networks.policy.parameters()) / 2**18
print(json.dumps({"peak": peak() - before, "size": size}))
"""


@pytest.mark.slow
def test_one_trunk_needs_a_fraction_of_the_memory_of_separate_networks(tmp_path):
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, max_position_embeddings=128,
    )  # fmt: skip
    renderer = Renderer(tokenizer())
    model = str(export(LlamaForCausalLM(config), renderer, tmp_path / "model"))
    network, lora = RewardNetwork(model), LoRA(r=4)
    base = fingerprint(network.model.base_model, skip="pooler.")
    lora.add(network.model)

    def also(folder: Path) -> None:
        save_adapters(network.model, lora, base, model, folder / "adapters")

    reward = str(export(merged(network.model), renderer, tmp_path / "reward", also))
    found = {}
    for kind in ("separate", "trunk"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, model, reward, kind],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    # Weights of four networks, two gradients and four moments make 10 times the size of one. A system may have dropped
    # pages of weights that stand unchanged in the model's file, so less is seen at times.
    assert found["separate"]["peak"] > 5 * found["separate"]["size"]
    assert found["trunk"]["peak"] < 0.5 * found["separate"]["peak"], found
