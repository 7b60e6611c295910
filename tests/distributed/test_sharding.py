import torch
from torch.distributed.device_mesh import init_device_mesh

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.sharding import full_weights, gathered, is_split, split
from tests.distributed.processes import connect

ROWS = [([5, 6, 7], [8, 9]), ([5, 6], [10, 11, 12, 2]), ([4], [9]), ([7, 7, 7, 7], [3, 2, 8])]


def sequences(rows=ROWS) -> Sequences:
    return stack_sequences([prompt for prompt, _ in rows], [response for _, response in rows], 0)


def numbers(policy: PolicyNetwork, critic: RewardNetwork, rows: Sequences) -> dict:
    """Outputs and gradients of all that the networks compute."""
    outputs = [
        policy(rows),
        *policy.predictions(rows),
        *policy.with_entropy(rows),
        critic(rows),
        critic(rows, values=True),
    ]
    outputs += [critic.token_scores(rows), critic.score(critic.features(rows))]
    mask = rows.response_mask
    total = sum((x[mask] if x.dim() == 2 else x).float().sum() for x in outputs)
    total.backward()
    return {"outputs": [(x * mask if x.dim() == 2 else x).detach() for x in outputs]}


def split_networks(path: str) -> dict:
    connect()
    mesh = init_device_mesh("cpu", (2,))
    policy, critic = PolicyNetwork(path), RewardNetwork(path)
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-1, 1, critic.head.weight.numel())[None])
    for network in (policy, critic):
        split(network, mesh)
    rank = mesh.get_local_rank()
    found = numbers(policy, critic, sequences(ROWS[:1] if rank == 0 else ROWS[1:]))  # an uneven share of the rows
    both = torch.nn.ModuleList([policy, critic])
    found["gradients"] = {name: each.grad.full_tensor() for name, each in both.named_parameters()}
    prompts, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    with gathered(policy):
        generator = torch.Generator().manual_seed(rank)
        found["sampled"] = sample(policy.model, prompts, lengths, 2, Sampling(4 + 4 * rank), generator, k=2)[0].ids
    found["again"] = policy(sequences()).detach()
    found["held"] = sum(each.to_local().numel() for each in policy.parameters())
    found["weights"] = full_weights(policy)
    return found


def test_split_networks_compute_and_learn_as_whole_ones(pair, tiny_model):
    first, second = pair.run(split_networks, tiny_model)
    policy, critic = PolicyNetwork(tiny_model), RewardNetwork(tiny_model)
    assert not is_split(policy)
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-1, 1, critic.head.weight.numel())[None])
    for rows, found in ((ROWS[:1], first), (ROWS[1:], second)):
        for theirs, ours in zip(found["outputs"], numbers(policy, critic, sequences(rows))["outputs"], strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    for name, parameter in torch.nn.ModuleList([policy, critic]).named_parameters():
        torch.testing.assert_close(first["gradients"][name], parameter.grad / 2, atol=1e-5, rtol=1e-4)
    for rank, found in enumerate((first, second)):
        generator = torch.Generator().manual_seed(rank)
        asked = torch.tensor([[5, 6, 7]]), torch.tensor([3])
        ours = sample(policy.model, *asked, 2, Sampling(4 + 4 * rank), generator, k=2)[0].ids
        assert torch.equal(found["sampled"], ours)
        torch.testing.assert_close(found["again"], policy(sequences()).detach(), atol=1e-5, rtol=1e-5)
        total = sum(each.numel() for each in policy.parameters())
        assert 0.45 * total < found["held"] < 0.55 * total
        assert all(torch.equal(value, policy.state_dict()[name]) for name, value in found["weights"].items())
