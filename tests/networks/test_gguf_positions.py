import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Phi3Config

from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.backbone import load_model
from lit_rlhf.networks.gguf import convert
from lit_rlhf.networks.gguf_files import read_header
from lit_rlhf.networks.gguf_positions import FACTORS, take_over_positions
from tests.networks.gguf_samples import random_model, write_gguf

IDS = torch.arange(120)[None] * 2
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def factors(factor, theta=10000.0, width=16):
    """As llama.cpp's converter computes them."""
    found = []
    for wavelength in 2 * math.pi * theta ** (np.arange(0, width, 2) / width):
        smooth = (8192 / wavelength - 1) / 3
        whole = 1 if smooth > 1 else factor if smooth < 0 else 1 / ((1 - smooth) / factor + smooth)
        found.append(whole)
    return np.array(found, np.float32)


def converted(tmp_path, model, **options):
    convert(str(write_gguf(tmp_path / "model.gguf", model, **options)), tmp_path / "model")
    return load_model(str(tmp_path / "model"), "causal")


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_factors_become_its_rule(tmp_path, factor):
    theta = 500000.0
    scaling = {"rope_type": "llama3", "factor": factor, "rope_theta": theta, **LLAMA3}
    model = random_model(rope_parameters=scaling)
    tensors = {FACTORS: factors(factor, theta)}
    again = converted(tmp_path, model, tensors=tensors, llama__rope__freq_base=theta)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=1e-6, rtol=1e-6)
    assert again.config.rope_parameters == scaling


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
def test_stretched_positions_give_the_logits_of_the_original(tmp_path, scaling):
    model = random_model(rope_parameters={"rope_theta": 10000.0, **scaling})
    facts = {"llama__rope__scaling__type": scaling["rope_type"], "llama__rope__scaling__factor": scaling["factor"]}
    original = scaling.get("original_max_position_embeddings")
    again = converted(tmp_path, model, llama__rope__scaling__original_context_length=original, **facts)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=1e-6, rtol=1e-6)


def test_factors_that_are_all_one_change_nothing(tmp_path):
    again = converted(tmp_path, random_model(), tensors={FACTORS: np.ones(8, np.float32)})
    assert again.config.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"tensors": {FACTORS: np.linspace(1, 3, 8, dtype=np.float32)}}, "not as in Llama 3.1"),
        ({"llama__rope__scaling__type": "longrope"}, "the way 'longrope'"),
        ({"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 2.0}, "the way 'yarn'"),
        ({"llama__rope__dimension_count": 8, "llama__attention__key_length": 16}, "8 of a head's 16 features"),
    ],
)
def test_positions_that_would_be_lost_are_refused(tmp_path, facts, said):
    path = write_gguf(tmp_path / "model.gguf", random_model(), **facts)
    with pytest.raises(DataError, match=f"positions cannot be taken over: .*{said}"):
        convert(str(path), tmp_path / "model")


def test_the_part_of_a_head_that_turns_is_taken_over(tmp_path):
    header = read_header(str(write_gguf(tmp_path / "model.gguf", random_model(), llama__rope__dimension_count=12)))
    config = Phi3Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    take_over_positions(config, header)
    assert config.rope_parameters["partial_rotary_factor"] == 0.75


def test_a_config_that_needs_nothing_is_left_as_it_is(tmp_path):
    header = read_header(str(write_gguf(tmp_path / "model.gguf", random_model())))
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    before = config.to_dict()
    assert take_over_positions(config, header) == set()
    assert config.to_dict() == before
