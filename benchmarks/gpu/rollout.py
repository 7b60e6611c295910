"""Sampling: tokens per second here and in transformers' ``generate``, from the same weights."""

import statistics
import time
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from benchmarks.gpu.meter import forget_peak, low_precision, peak_gib, wait
from benchmarks.gpu.presets import Preset
from lit_rlhf.networks.sampling import Sampling, sample

_ROUNDS = 3


def roll_out(
    folder: Path, preset: Preset, device: str, k: int = 1, ends: bool = False, mixed: bool = False
) -> dict[str, Any]:
    """Response tokens per second and memory, of both.

    Args:
        folder: With the policy.
        preset: The model, and how much is drawn.
        device: ``cuda`` or ``cpu``.
        k: Responses per prompt, as for offline baselines.
        ends: Let responses end, each token being the last with the same probability: a quarter of the most tokens on
            average. Otherwise none ends early.
        mixed: Weights in fp32 under autocast, as PPO samples in its training; otherwise weights in bf16.
    """
    kind = torch.float32 if mixed else low_precision(device)
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=kind)
    model.to(device).eval()
    end = int(model.config.eos_token_id)
    tilt(model, end, 4 / preset.response if ends else None)
    ids, lengths = _prompts(preset, device)
    generator = torch.Generator(device).manual_seed(0)

    def here() -> int:
        sampling = Sampling(max_new_tokens=preset.response)
        return int(sample(model, ids, lengths, end, sampling, generator, k)[0].response_length.sum())

    left, mask = left_padded(ids, lengths, end)

    def theirs() -> int:
        found = model.generate(
            left, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=k,
            max_new_tokens=preset.response, eos_token_id=end, pad_token_id=model.config.pad_token_id,
        )[:, left.shape[1] :]  # fmt: skip
        return response_tokens(found, end)

    result: dict[str, Any] = {}
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=mixed and device == "cuda"):
        for name, draw in (("here", here), ("transformers", theirs)):
            torch.manual_seed(0)
            rate, memory = _rate(draw, device)
            result |= {f"{name}_tokens_per_second": rate, f"{name}_peak_gib": memory}
    result["ratio"] = result["here_tokens_per_second"] / result["transformers_tokens_per_second"]
    return result


def response_tokens(found: Tensor, end: int) -> int:
    """Tokens of responses ``(N, T)``, each up to its first end, which counts."""
    ended = found == end
    return int((ended.cumsum(1) - ended.int() == 0).sum())


def _rate(draw: Callable[[], int], device: str) -> tuple[float, float | None]:
    """Tokens per second, the median round behind a warm-up, and peak memory."""
    forget_peak(device)
    rates = []
    for _ in range(_ROUNDS + 1):
        wait(device)
        start = time.perf_counter()
        tokens = draw()
        wait(device)
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates[1:]), peak_gib(device)


@torch.no_grad()
def tilt(model: Any, end: int, probability: float | None) -> None:
    """Give the end of a response about this probability at every step, by a bias on its logit; None means never."""
    head = model.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0], device=head.weight.device, dtype=head.weight.dtype)
    if probability is None:
        bias[end] = -1e4
    else:
        probe = torch.arange(min(256, len(bias)), device=head.weight.device)[None]
        logits = model(input_ids=probe, use_cache=False).logits[0].float()  # (256, V)
        others = logits.logsumexp(-1).median()
        bias[end] = others + log(probability / (1 - probability)) - logits[:, end].median()
    head.bias = nn.Parameter(bias, requires_grad=False)


def _prompts(preset: Preset, device: str) -> tuple[Tensor, Tensor]:
    """Prompts from half the longest to the longest: ids ``(B, P)``, padded on the right, and lengths ``(B,)``."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, preset.vocabulary, (preset.rollouts, preset.prompt), generator=draw)
    lengths = torch.randint(preset.prompt // 2, preset.prompt + 1, (preset.rollouts,), generator=draw)
    lengths[0] = preset.prompt
    return ids.to(device), lengths.to(device)


def left_padded(ids: Tensor, lengths: Tensor, filler: int) -> tuple[Tensor, Tensor]:
    """The same prompts padded on the left, with their mask, both ``(B, P)``."""
    columns = torch.arange(ids.shape[1], device=ids.device) - (ids.shape[1] - lengths)[:, None]
    mask = columns >= 0
    return ids.gather(1, columns.clamp(min=0)).masked_fill(~mask, filler), mask.long()
