"""What a forward pass is said to keep, against what autograd saves, tensor by tensor."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.evaluation.activations import Rows, Shape, kept_bytes
from lit_rlhf.networks.adapters import LoRA
from lit_rlhf.networks.reward_network import RewardNetwork

ROWS = {  # prompts, tokens of a prompt and of a response, responses per prompt
    "rows of their own": (4, 30, 11, 1),
    "prompts that two responses share": (3, 20, 10, 2),
    "rows in several pieces": (2, 250, 50, 2),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """A tiny Llama whose every size differs from all others."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=24, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("models") / "llama"
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


def saved_bytes(network: RewardNetwork, sequences: Sequences, mixed: bool) -> int:
    """Bytes of all storages that a pass saves, the network's own and autocast's copies of its weights apart."""
    own = {each.untyped_storage().data_ptr() for each in [*network.parameters(), *network.buffers()]}
    sizes = {part.weight.shape for part in network.modules() if isinstance(part, torch.nn.Linear)}
    sizes |= {torch.Size(reversed(size)) for size in sizes}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own and not (mixed and tensor.dtype == torch.bfloat16 and tensor.shape in sizes):
            kept[pointer] = tensor  # kept alive: a storage that is freed would give its place to another
        return tensor

    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False),
    ):
        network(sequences)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def sequences(prompts: int, prompt: int, response: int, each: int) -> Sequences:
    ids = torch.randint(1, 50, (prompts, prompt)).repeat_interleave(each, 0)
    ids = torch.cat([ids, torch.randint(1, 50, (prompts * each, response))], 1)
    return Sequences(ids, torch.full((len(ids),), prompt), torch.full((len(ids),), prompt + response))


@pytest.mark.parametrize("rank", [None, 4], ids=["all weights", "adapters"])
@pytest.mark.parametrize("numerics", ["fp32", "mixed", "bf16"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_pass_keeps_what_the_formula_says(path, rows, numerics, rank):
    network = RewardNetwork(path).train()
    if rank:
        LoRA(r=rank).add(network.model)
    if numerics == "bf16":
        network = network.to(torch.bfloat16)
    batch = sequences(*ROWS[rows])
    network(batch)  # whether rows can be packed is tried in the first pass
    expected = kept_bytes(Shape.load(path), Rows.of(*ROWS[rows]), numerics, rank, checkpointing=False)
    assert saved_bytes(network, batch, numerics == "mixed") == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("numerics", ["fp32", "bf16"])
def test_with_checkpointing_each_layer_keeps_its_input_alone(path, numerics):
    network = RewardNetwork(path).train().to(torch.float32 if numerics == "fp32" else torch.bfloat16)
    network.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    size = ROWS["rows of their own"]
    batch, rows, shape = sequences(*size), Rows.of(*size), Shape.load(path)
    network(batch)
    # The tables of positions, and where tokens stand, are kept by closures that autograd knows nothing of.
    stream = 4 if numerics == "fp32" else 2
    closures = 2 * stream * rows.tokens * 24 + 8 * (rows.queries + rows.keys + 2 * rows.tokens)
    expected = kept_bytes(shape, rows, numerics, None, checkpointing=True) - closures
    assert saved_bytes(network, batch, mixed=False) == pytest.approx(expected, rel=0.04)


def test_a_shape_counts_the_parameters_of_the_model(any_model):
    shape, model = Shape.load(any_model), RewardNetwork(any_model).model
    assert shape.body + shape.hidden == sum(parameter.numel() for parameter in model.parameters())


def test_adapters_of_a_shape_are_those_that_are_added(path):
    network = RewardNetwork(path)
    LoRA(r=3).add(network.model)
    added = sum(value.numel() for name, value in network.named_parameters() if "lora_" in name)
    shape = Shape.load(path)
    assert 3 * shape.adapter * shape.layers == added


def test_a_configuration_is_enough_and_others_are_refused(tmp_path, path):
    (tmp_path / "config.json").write_text((RewardNetwork(path).model.config).to_json_string())
    assert Shape.load(str(tmp_path / "config.json")) == Shape.load(path)
    (tmp_path / "broken.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(DataError, match="config"):
        Shape.load(str(tmp_path / "broken.json"))
    with pytest.raises(DataError, match="no such folder"):
        Shape.load(str(tmp_path / "nowhere"))
