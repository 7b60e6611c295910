import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP


def test_layers_are_computed_twice_and_learn_the_same(lit, tiny_model, tmp_path, monkeypatch):
    computed = []
    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: computed.append(self.training) or plain(self, x))
    weights, counts = [], []
    for callbacks in ([], [{"class_path": "lit_rlhf.networks.checkpointing.LayerCheckpointing"}]):
        folder = tmp_path / str(len(callbacks))
        options = {
            "model": {"class_path": "lit_rlhf.rewards.ScalarRewardModule", "init_args": {"model": tiny_model}},
            "data": {
                "sources": [{"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 8}}],
                "val_fraction": 0.0,
                "batch_size": 4,
                "max_length": 256,
            },
            "fast": {"cache_sized": False},
            "trainer": {"max_epochs": 1, "callbacks": callbacks},
            "export": {"directory": str(folder / "export")},
        }
        computed.clear()
        lit("fit", folder, options)
        counts.append(sum(computed))
        weights.append(load_file(folder / "export" / "model.safetensors"))
    assert counts == [4, 8]  # two layers in two steps
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-5)
