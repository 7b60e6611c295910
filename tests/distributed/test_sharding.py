import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils import clip_grad_norm_

from lit_rlhf.data.batches import Sequences, stack_sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.backbone import ensure_pad_token, fingerprint
from lit_rlhf.networks.policy_network import PolicyNetwork
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.networks.sampling import Sampling, sample
from lit_rlhf.networks.sharding import assembled, full_weights, gathered, is_split, split, whole
from lit_rlhf.networks.slices import Stored, weights_in_files
from lit_rlhf.policy.actor_critic import AdapterScores
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
    found["norm"] = whole(clip_grad_norm_(both.parameters(), 1.0))
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
    both = torch.nn.ModuleList([policy, critic])
    for parameter in both.parameters():
        parameter.grad /= 2  # the mean over the processes
    norm = clip_grad_norm_(both.parameters(), 1.0)
    assert norm > 2
    assert float(first["norm"]) == pytest.approx(float(norm), rel=1e-5)
    for name, parameter in both.named_parameters():
        torch.testing.assert_close(first["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-4)
    for rank, found in enumerate((first, second)):
        generator = torch.Generator().manual_seed(rank)
        asked = torch.tensor([[5, 6, 7]]), torch.tensor([3])
        ours = sample(policy.model, *asked, 2, Sampling(4 + 4 * rank), generator, k=2)[0].ids
        assert torch.equal(found["sampled"], ours)
        torch.testing.assert_close(found["again"], policy(sequences()).detach(), atol=1e-5, rtol=1e-5)
        total = sum(each.numel() for each in policy.parameters())
        assert 0.45 * total < found["held"] < 0.55 * total
        assert all(torch.equal(value, policy.state_dict()[name]) for name, value in found["weights"].items())


def read_slices(path: str, lora: bool) -> dict:
    """A scalar model with twice its head and one more token, read slice by slice."""
    connect()
    mesh = init_device_mesh("cpu", (2,))
    with weights_in_files():
        network = RewardNetwork(path, scale=2.0)
    named = fingerprint(network.model.base_model)
    ensure_pad_token(network.model, with_another_token(path))
    if lora:
        LoRA(r=2).add(network.model)
    at_first = sum(each.nbytes for each in network.parameters() if not each.is_meta)
    read = []
    with pytest.MonkeyPatch.context() as patch:
        plain = Stored.read
        patch.setattr(Stored, "read", lambda *args: read.append(plain(*args)) or read[-1])
        split(network, mesh)
    return {
        "fingerprint": named,
        "at_first": at_first,
        "read": sum(each.nbytes for each in read),
        "held": sum(each.to_local().nbytes for each in network.parameters()),
        "weights": full_weights(network),
    }


def with_another_token(path: str) -> Renderer:
    renderer = Renderer.load(path)
    renderer.tokenizer.pad_token = renderer.tokenizer.eos_token
    return renderer


@pytest.mark.parametrize("lora", [False, True])
def test_no_process_holds_the_whole_model_while_it_is_loaded(pair, tiny_model, lora):
    torch.manual_seed(0)
    network = RewardNetwork(tiny_model, scale=2.0)
    rows, named = network.model.get_input_embeddings().num_embeddings, fingerprint(network.model.base_model)
    ensure_pad_token(network.model, with_another_token(tiny_model))
    assert network.model.get_input_embeddings().num_embeddings == rows + 1
    body = sum(each.nbytes for each in network.model.base_model.parameters())
    if lora:
        LoRA(r=2).add(network.model)
    others = sum(each.nbytes for each in network.parameters()) - body
    for found in pair.run(read_slices, tiny_model, lora):
        assert found["fingerprint"] == named
        assert found["at_first"] == others
        assert 0.45 * body < found["read"] < 0.55 * body
        assert found["held"] < 0.55 * body + others
        for name, weight in network.state_dict().items():
            if "embed_tokens" in name:
                assert torch.equal(weight[:rows], found["weights"][name][:rows])
            elif "lora_A" in name or "score" in name or name.startswith("head"):  # new and random
                assert weight.std() == pytest.approx(float(found["weights"][name].std()), rel=0.5)
            else:
                assert torch.equal(weight, found["weights"][name])
    assert torch.equal(found["weights"]["head.weight"], found["weights"]["model.score.weight"])


def borrowed(path: str) -> dict:
    """Scores by adapters on a policy's weights, in more parts on one process than on the other."""
    connect()
    torch.manual_seed(0)
    policy = PolicyNetwork(path)
    for name in ("default", "reward_0"):
        LoRA(r=2).add(policy.model, name)
    scorer = AdapterScores(policy, "reward_0", torch.ones(1, policy.model.config.hidden_size))
    split(policy, init_device_mesh("cpu", (2,)))
    rank = torch.distributed.get_rank()
    with gathered(scorer), torch.no_grad():
        with gathered(policy):
            pass  # does not end what is around it
        parts = [scorer(sequences(ROWS[i : i + 2 - rank])) for i in range(0, 4, 2 - rank)]
    return {"scores": torch.cat(parts), "whole": scorer(sequences()).detach(), "parts": len(parts)}


def test_processes_that_score_in_unequal_parts_on_borrowed_weights_do_not_wait_for_each_other(pair, tiny_model):
    first, second = pair.run(borrowed, tiny_model, limit=60)
    assert (first["parts"], second["parts"]) == (2, 4)
    for found in (first, second):
        torch.testing.assert_close(found["scores"], first["whole"], atol=1e-5, rtol=1e-5)


def put_together(path: str) -> dict:
    connect()
    network = PolicyNetwork(path)
    network.model.generation_config.temperature = 0.25
    split(network, init_device_mesh("cpu", (2,)))
    return assembled(network.model).generation_config.to_diff_dict()


def test_a_split_model_is_put_together_with_its_ways_of_generating(pair, tiny_model):
    for found in pair.run(put_together, tiny_model):
        assert found["temperature"] == 0.25


def in_bf16(path: str) -> dict:
    connect()
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    network = RewardNetwork(path)
    split(network, mesh, bf16=True)
    seen = {}
    layer = network.model.base_model.layers[0]

    def look(mlp, inputs, output) -> None:
        seen.update(layer=mlp.up_proj.weight.dtype, head=network.head.weight.dtype)

    layer.mlp.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(sequences(ROWS[:1] if mesh.get_local_rank() == 0 else ROWS[1:]))
    scores.sum().backward()
    gradients = {name: each.grad.full_tensor() for name, each in network.named_parameters()}
    return {"seen": seen, "scores": scores.detach(), "gradients": gradients}


def check_in_bf16(both: list[dict], path: str) -> None:
    """Layers in bf16, heads, scores and gradients in fp32, and nearly the numbers of one process in fp32."""
    torch.manual_seed(0)
    network = RewardNetwork(path)
    scores = network(sequences())
    (scores.sum() / 2).backward()
    assert both[0]["seen"] == {"layer": torch.bfloat16, "head": torch.float32}
    assert both[0]["scores"].dtype == torch.float32
    torch.testing.assert_close(torch.cat([found["scores"] for found in both]), scores.detach(), atol=3e-2, rtol=3e-2)
    for name, parameter in network.named_parameters():
        gradient = both[0]["gradients"][name]
        assert gradient.dtype == torch.float32
        assert (gradient - parameter.grad).norm() < 0.05 * parameter.grad.norm()


def test_layers_in_bf16_leave_heads_sums_and_weights_in_fp32(pair, tiny_model):
    check_in_bf16(pair.run(in_bf16, tiny_model), tiny_model)
