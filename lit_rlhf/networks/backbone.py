"""Loading Hugging Face models, naming their weights, and writing them back."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from lit_rlhf.data.batches import Sequences
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.rows import check_folder
from lit_rlhf.data.store import naming
from lit_rlhf.networks.adapter_models import load_adapted
from lit_rlhf.networks.fast import at_once
from lit_rlhf.networks.loading import check_complete, read_weights, set_labels, settle_head
from lit_rlhf.networks.model_config import Kind, check_plain, read_config
from lit_rlhf.networks.sharding import assembled, whole
from lit_rlhf.networks.slices import stored_of, values_of, without_weights
from lit_rlhf.networks.together import rank
from lit_rlhf.networks.weight_files import stored_weights
from lit_rlhf.networks.weight_names import fitted

_OTHER_MEDIA = re.compile("image|audio|video|vision", re.IGNORECASE)


def load_model(path: str, kind: Kind, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a model from a Hugging Face directory or Hub id.

    Names that other people's trainers give to weights are mapped onto the architecture's own (see
    `lit_rlhf.networks.weight_names`). What is missing then, or has no place, is refused.

    Args:
        path: Directory or Hub id.
        kind: ``causal`` for a language model, ``scalar`` for a body with a head for scores, which has as many numbers
            as the files say; a language model's directory gives one with a fresh head of one number. ``rewriter`` is
            an encoder–decoder where the directory holds one, and a language model otherwise.
        dtype: Of the weights.

    Returns:
        The model, whose ``fresh`` are the names of weights that the directory does not hold: those of a new head.

    Raises:
        DataError: If nothing can be loaded from there, a weight is missing, or one has no place in the model.
    """
    check_folder(path)
    adapted = load_adapted(path, kind, lambda base: load_model(base, kind, dtype), fingerprint)
    if adapted is not None:
        return adapted
    try:
        config = read_config(path, kind)
        stored = stored_weights(path)
        check_plain(stored, path)
        has_head = set_labels(config, stored) if kind == "scalar" else False
        maker: Any = AutoModelForSequenceClassification if kind == "scalar" else AutoModelForCausalLM
        if kind == "rewriter" and config.is_encoder_decoder:
            maker = AutoModelForSeq2SeqLM
        with torch.device("meta"):
            empty: PreTrainedModel = maker.from_config(config)
        names = fitted(stored, empty, kind == "scalar", path)
        model = without_weights(maker, config, path, names, not has_head)
        model = model or read_weights(type(empty), config, path, names, dtype)
        check_complete(model, kind == "scalar" and not has_head, names, path)
        settle_head(model, names)
        return model
    except DataError:
        raise
    except Exception as error:  # damaged files raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "Give a Hugging Face directory; an earlier stage writes one at its end."
        raise DataError(f"no {kind} model could be loaded: {reason}", path, hint) from None


def positions(model: PreTrainedModel) -> int | None:
    """Most tokens that the model can read; None where its architecture sets no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    offset = getattr(table, "padding_idx", None)  # RoBERTa and its kin count from behind the padding's position
    return limit if limit is None or offset is None else limit - offset - 1


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """The dtype of a name: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        DataError: If it is another one.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    short = str(name).removeprefix("torch.")
    if short not in known:
        raise DataError(f"no such dtype: {name}", "dtype", f"Give one of {', '.join(known)}.")
    return known[short]


def check_embeddings(model: PreTrainedModel, renderer: Renderer, path: str) -> None:
    """Refuse a tokenizer with ids beyond a model's embeddings, before one of them occurs.

    Tokens that stand for pictures, sound or video are not counted: no text here holds one, and some tokenizers of text
    models bring them.

    Args:
        model: The model.
        renderer: Has the tokenizer.
        path: What the message names.

    Raises:
        DataError: Names both sizes.
    """
    rows: int = model.get_input_embeddings().num_embeddings  # type: ignore[assignment,union-attr]
    vocabulary: dict[str, int] = renderer.tokenizer.get_vocab()
    beyond = [token for token, number in vocabulary.items() if number >= rows and not _OTHER_MEDIA.search(token)]
    if beyond:
        size = max(vocabulary.values()) + 1
        what = f"the tokenizer has {size:,} tokens, the model embeddings for {rows:,}"
        hint = "Take the tokenizer that belongs to the model, or give the model rows: model.resize_token_embeddings."
        raise DataError(f"{what} ({min(beyond, key=vocabulary.__getitem__)!r} has none)", path, hint)


def check_length(model: PreTrainedModel, tokens: int) -> None:
    """Refuse sequences that are longer than the model has positions for, before they become nonsense."""
    limit = positions(model)
    if limit is not None and tokens > limit:
        hint = "Lower data.max_length, or prompt length plus sampling.max_new_tokens."
        raise DataError(f"a sequence of {tokens} tokens exceeds the model's {limit} positions", "max_length", hint)


def check_prompts(sequences: Sequences) -> None:
    """Refuse rows without a prompt: there is no state that predicts their first token."""
    if int(sequences.prompt_length.min()) < 1:
        raise DataError("has no token, so nothing predicts the response's first one", "a prompt", "Leave it out.")


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode for a while; afterwards every part is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def call_body(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Final hidden states ``(N, S, H)`` of right-padded rows.

    A causal body needs no mask for them: no real token sees the padding behind it. Without one, attention takes
    its fast path.
    """
    check_length(model, ids.shape[1])
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def by_length(sequences: Sequences, compute: Callable[..., Tensor], *beside: Tensor, size: int = 8) -> Tensor:
    """Compute rows in groups of similar length, so that little of the work is padding; same numbers, same order.

    Only on a CPU, and where at least a tenth would be padding: a GPU is better fed with everything at once.

    Args:
        sequences: The rows.
        compute: From rows to one value per row ``(N,)``, per response token ``(N, T)``, several per token ``(N, T, K)``
            or one per feature ``(N, H)``.
        beside: Tensors with one entry per row, of which ``compute`` gets its rows' as further arguments.
        size: Rows per group.
    """
    filled = float(sequences.length.float().mean()) / sequences.ids.shape[1]
    if at_once() or len(sequences) <= size or filled > 0.9 or sequences.ids.device.type != "cpu":
        return compute(sequences, *beside)
    groups = sequences.length.argsort(stable=True).split(size)
    parts = [compute(sequences[rows], *(each[rows] for each in beside)) for rows in groups]
    if parts[0].dim() > 1:
        width, unpadded = max(part.shape[1] for part in parts), (0, 0) * (parts[0].dim() - 2)
        parts = [F.pad(part, (*unpadded, 0, width - part.shape[1])) for part in parts]
    return torch.cat(parts)[torch.cat(groups).argsort()]


def fingerprint(network: nn.Module, skip: str | None = None) -> str:
    """Sixteen hexadecimal digits that name the weights: from up to 4,096 values of every tensor.

    Where the network is split, all processes must ask together, and get the same.

    Args:
        network: Holds the weights.
        skip: Leave out tensors whose name begins like this, such as a pooler that may be new and random.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict(keep_vars=True).items()):
        if skip is not None and name.startswith(skip):
            continue
        flat = whole(values_of(tensor).detach()).reshape(-1)
        sample = flat[:: max(1, -(-flat.numel() // 4096))].float().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def ensure_pad_token(model: PreTrainedModel, renderer: Renderer) -> None:
    """Give a scalar model a padding token that no response ends with.

    ``AutoModelForSequenceClassification`` finds the last token as the last one that is not padding; were padding
    the end-of-sequence token, it would score the token before.
    """
    tokenizer: Any = renderer.tokenizer
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in (renderer.eos_id, *renderer.closing_ids):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # type: ignore[attr-defined]
            left = {name: stored_of(each) for name, each in model.named_parameters()}
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            for name, each in model.named_parameters():
                each.stored = left.get(name)  # type: ignore[attr-defined]  where its rows are, but for those added
    model.config.pad_token_id = tokenizer.pad_token_id


def export(
    model: PreTrainedModel,
    renderer: Renderer,
    directory: str | os.PathLike[str],
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write a Hugging Face directory: config, safetensors, tokenizer, chat template.

    The directory appears whole or not at all; one that stood there before is replaced. Of several processes the first
    one writes; where the model is split, all must call this together.

    Args:
        model: What is written.
        renderer: Its tokenizer and template.
        directory: Where to.
        also: Writes further files into the directory, called by all processes.
    """
    target, model = Path(directory), assembled(model)
    generation: Any = getattr(model, "generation_config", None)
    if generation is not None:  # so that others stop where an answer ends, too
        ends = list(renderer.end_ids)
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    partial = target.with_name(f".{target.name}.partial")
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with naming(partial):
            model.save_pretrained(partial)
            renderer.tokenizer.save_pretrained(partial)
    if also is not None:
        also(partial)
    if rank() == 0:
        replace_directory(partial, target)
    return target


def replace_directory(partial: Path, target: Path) -> None:
    """Put a finished directory in its place with one rename, moving what is there out of the way first.

    Either may be a file as well: checkpoints are files or directories, and one kind may follow the other.
    """
    outdated = target.with_name(f".{target.name}.outdated")
    _remove(outdated)
    if target.exists():
        target.rename(outdated)
    partial.rename(target)
    _remove(outdated)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
