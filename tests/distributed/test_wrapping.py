"""Networks that the first version of FSDP splits: what they compute, hold and read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_

from lit_rlhf.networks import wrapping
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.sharding import beside, clip_gradients, count, full_weights, gathered, is_split, total_norm
from lit_rlhf.networks.slices import Stored, stored_of, weights_in_files
from tests.distributed.processes import connect
from tests.distributed.strategies import FSDPOnCPU
from tests.distributed.test_sharding import ROWS, check_in_bf16, numbers, sequences, with_another_token


def wrapped(*networks: nn.Module, bf16: bool = False) -> list[Any]:
    connect()
    owner = nn.ModuleList(networks)
    with FSDPOnCPU().model_sharded_context():
        for network in networks:
            wrapping.wrap_network(owner, network, bf16)
    return list(owner)


def both(path: str) -> tuple[PolicyNetwork, RewardNetwork]:
    policy, critic = PolicyNetwork(path), RewardNetwork(path)
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-1, 1, critic.head.weight.numel())[None])
    return policy, critic


def gradients(*roots: Any) -> list[dict[str, torch.Tensor]]:
    found = []
    for root in roots:
        with FullyShardedDataParallel.summon_full_params(root, with_grads=True):
            found.append({name: each.grad.clone() for name, each in root.named_parameters()})
    return found


def computed(path: str) -> dict:
    bare = both(path)
    policy, critic = wrapped(*bare)
    rank = torch.distributed.get_rank()
    trained = [*policy.parameters(), *critic.parameters()]
    found: dict[str, Any] = {"count": count(trained), "held": sum(each.numel() for each in policy.parameters())}
    found |= numbers(policy, critic, sequences(ROWS[:1] if rank == 0 else ROWS[1:]))  # an uneven share of the rows
    found["norm"] = clip_gradients(trained, 1.0)
    found["clipped"], found["gradients"] = total_norm(trained), gradients(policy, critic)
    prompts, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    with gathered(policy):
        generator = torch.Generator().manual_seed(rank)
        found["sampled"] = sample(policy.model, prompts, lengths, 2, Sampling(4 + 4 * rank), generator, k=2)[0].ids
        with gathered(bare[0]):
            pass  # does not end what is around it
        parts = [policy(sequences(ROWS[i : i + 2 - rank])) for i in range(0, 4, 2 - rank)]  # more often on one of them
    found["parts"] = [len(part) for part in parts]
    found["again"] = [each(sequences()).detach() for each in (policy, bare[0])]
    with torch.no_grad():
        policy(sequences())
        for parameter in policy.parameters():
            parameter.mul_(2.0)  # what a step does behind a forward without gradients
    found["doubled"] = full_weights(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.div_(2.0)
    found["weights"], found["split"] = full_weights(policy), [is_split(policy), is_split(policy.model.base_model)]
    return found


def test_wrapped_networks_compute_and_learn_as_whole_ones(pair, tiny_model):
    first, second = pair.run(computed, tiny_model)
    policy, critic = both(tiny_model)
    for rows, found in ((ROWS[:1], first), (ROWS[1:], second)):
        for theirs, ours in zip(found["outputs"], numbers(policy, critic, sequences(rows))["outputs"], strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    trained = nn.ModuleList([policy, critic])
    for parameter in trained.parameters():
        parameter.grad /= 2  # the mean over the processes
    norm = clip_grad_norm_(trained.parameters(), 1.0)
    assert norm > 2
    assert float(first["norm"]) == pytest.approx(float(norm), rel=1e-5)
    assert float(second["clipped"]) == pytest.approx(1.0, rel=1e-4)
    for network, found in zip((policy, critic), first["gradients"], strict=True):
        assert found.keys() == dict(network.named_parameters()).keys()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)
    total = sum(each.numel() for each in policy.parameters())
    for rank, found in enumerate((first, second)):
        generator = torch.Generator().manual_seed(rank)
        asked = torch.tensor([[5, 6, 7]]), torch.tensor([3])
        assert torch.equal(
            found["sampled"], sample(policy.model, *asked, 2, Sampling(4 + 4 * rank), generator, k=2)[0].ids
        )
        assert found["parts"] == [2 - rank] * (2 + 2 * rank)
        for again in found["again"]:
            torch.testing.assert_close(again, policy(sequences()).detach(), atol=1e-5, rtol=1e-5)
        assert found["split"] == [True, True]
        assert 0.45 * total < found["held"] < 0.55 * total
        assert found["count"] == sum(each.numel() for each in trained.parameters())
        assert all(torch.equal(value, 2 * found["weights"][name]) for name, value in found["doubled"].items())
        assert found["weights"].keys() == policy.state_dict().keys()
        assert all(torch.equal(value, policy.state_dict()[name]) for name, value in found["weights"].items())


def read(path: str, lora: bool) -> dict:
    """A scalar model with twice its head and one more token, read layer by layer."""
    with weights_in_files():
        network = RewardNetwork(path, scale=2.0)
    ensure_pad_token(network.model, with_another_token(path))
    if lora:
        LoRA(r=2).add(network.model)
    sizes, plain = [0], Stored.read

    def count_bytes(*args: Any) -> torch.Tensor:
        values = plain(*args)
        sizes[-1] += values.nbytes
        return values

    split_off = wrapping._wrapped
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stored, "read", count_bytes)
        patch.setattr(wrapping, "_wrapped", lambda *args: sizes.append(0) or split_off(*args))
        (root,) = wrapped(network)
    return {"sizes": sizes, "held": sum(each.nbytes for each in root.parameters()), "weights": full_weights(root)}


@pytest.mark.parametrize("lora", [False, True])
def test_no_process_holds_more_than_a_layer_beside_its_slices_while_it_is_loaded(pair, tiny_model, lora):
    torch.manual_seed(0)
    network = RewardNetwork(tiny_model, scale=2.0)
    layers = [sum(each.nbytes for each in layer.parameters()) for layer in network.model.base_model.layers]
    body = sum(each.nbytes for each in network.model.base_model.parameters())
    rows = network.model.get_input_embeddings().num_embeddings
    ensure_pad_token(network.model, with_another_token(tiny_model))
    if lora:
        LoRA(r=2).add(network.model)
    whole = sum(each.nbytes for each in network.parameters())
    for found in pair.run(read, tiny_model, lora):
        assert found["sizes"] == [*layers, body - sum(layers), 0]
        assert found["held"] < 0.55 * whole
        for name, weight in network.state_dict().items():
            if "embed_tokens" in name:
                assert torch.equal(weight[:rows], found["weights"][name][:rows])
            elif "lora_A" in name or "score" in name or name.startswith("head"):  # new and random
                assert weight.std() == pytest.approx(float(found["weights"][name].std()), rel=0.5)
            else:
                assert torch.equal(weight, found["weights"][name])


def low(path: str) -> dict:
    torch.manual_seed(0)
    network = RewardNetwork(path)
    seen: dict[str, Any] = {}

    def look(mlp: Any, inputs: Any, output: Any) -> None:
        seen.update(layer=mlp.up_proj.weight.dtype, head=network.head.weight.dtype)

    network.model.base_model.layers[0].mlp.register_forward_hook(look)
    (root,) = wrapped(network, bf16=True)
    rank = torch.distributed.get_rank()
    with torch.autocast("cpu", torch.bfloat16):
        scores = root(sequences(ROWS[:1] if rank == 0 else ROWS[1:]))
    scores.sum().backward()
    return {"seen": seen, "scores": scores.detach(), "gradients": gradients(root)[0]}


def test_layers_in_bf16_leave_heads_sums_and_weights_in_fp32(pair, tiny_model):
    check_in_bf16(pair.run(low, tiny_model), tiny_model)


def stood_beside(path: str, folder: str) -> dict:
    """A parameter beside a network, other values of which each process has, and gradients."""
    (root,) = wrapped(RewardNetwork(path))
    rank = torch.distributed.get_rank()
    parameter = beside(root, torch.full((3,), float(rank + 1)))
    (parameter.sum() * (rank + 1)).backward()
    renderer = with_another_token(path)
    export(root.model, renderer, Path(folder) / "model")
    return {"value": parameter.detach(), "gradient": parameter.grad, "norm": total_norm([parameter])}


def test_what_is_trained_beside_a_network_is_the_same_everywhere_and_the_model_is_written_whole(
    pair, tiny_reward_model, tmp_path
):
    for found in pair.run(stood_beside, tiny_reward_model, str(tmp_path)):
        assert found["value"].tolist() == [1.0] * 3
        assert found["gradient"].tolist() == [1.5] * 3
        assert float(found["norm"]) == pytest.approx(1.5 * 3**0.5)
    ours, theirs = (RewardNetwork(str(path)) for path in (tiny_reward_model, tmp_path / "model"))
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert not any(stored_of(each) for each in theirs.parameters())
