"""The way to an exported reward model's adapters through peft alone, as the page shows it."""

import torch
from safetensors.torch import load_file

from lit_rlhf.data.rendering import Renderer
from lit_rlhf.networks.adapter_files import save_adapters
from lit_rlhf.networks.adapters import LoRA, merged
from lit_rlhf.networks.backbone import ensure_pad_token, export, fingerprint
from lit_rlhf.networks.reward_network import RewardNetwork
from tests.docs.pages import DOCS, blocks


def test_peft_alone_gives_the_scores_of_the_exported_model(tiny_model, tmp_path):
    network, renderer, lora = RewardNetwork(tiny_model), Renderer.load(tiny_model), LoRA(r=2)
    renderer.tokenizer.pad_token = renderer.tokenizer.eos_token  # so that one is added for padding
    base = fingerprint(network.model.base_model, skip="pooler.")
    ensure_pad_token(network.model, renderer)
    lora.add(network.model)
    with torch.no_grad():
        for name, parameter in network.model.named_parameters():
            if "lora_B" in name or "score" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    network.eval()
    export(
        merged(network.model),
        renderer,
        tmp_path / "model",
        lambda folder: save_adapters(network.model, lora, base, tiny_model, folder / "adapters"),
    )
    (code,) = [block.text for block in blocks(DOCS / "methods" / "adapters.md") if block.mark == "peft"]
    names: dict = {}
    exec(code.replace("runs/reward/model", str(tmp_path / "model")).replace("path/to/sft-model", tiny_model), names)
    ids = torch.tensor([[7, 8, 9, 10, names["tokenizer"].pad_token_id], [11, 12, 13, 14, 15]])
    with torch.no_grad():
        found = names["model"](input_ids=ids).logits
        expected = network.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs() > 1e-3
    assert len(names["tokenizer"]) == len(
        load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    )
