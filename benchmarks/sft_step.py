"""Milliseconds per supervised fine-tuning step of the world's 1m preset: what thread settings are worth.

OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=1000 python benchmarks/sft_step.py --batch 32
"""

import argparse
import tempfile
import time

import torch

from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.functional import masked_mean
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.world import WorldDemonstrations, write_base_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_base_model(f"{folder}/base", "1m")
        source = WorldDemonstrations(size=options.batch * (options.steps + 5))
        data = PreferenceDataModule(source, tokenizer=f"{folder}/base", batch_size=options.batch, val_fraction=0.0)
        data.load("responses")
        policy = PolicyNetwork(f"{folder}/base")
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, fused=True)
    start, tokens = time.perf_counter(), 0
    for step, batch in enumerate(data.train_dataloader()):
        if step == options.steps:
            break
        loss = -masked_mean(policy(batch.sequences), batch.sequences.response_mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tokens += int(batch.sequences.length.sum())
    seconds = time.perf_counter() - start
    each = 1000 * seconds / options.steps
    print(f"{torch.get_num_threads()} threads: {each:.0f} ms per step, {tokens / seconds:,.0f} tokens/s")


if __name__ == "__main__":
    main()
