"""Shared by all tests: one thread per process, no network, and tiny models with random weights."""

import json
import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.fabric.utilities.rank_zero import rank_zero_module, rank_zero_only
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from lit_rlhf.data.rendering import Renderer
from lit_rlhf.data.store import Store
from lit_rlhf.networks.backbone import ensure_pad_token, export
from lit_rlhf.networks.reward_network import RewardNetwork
from lit_rlhf.world import WorldDemonstrations, WorldPrompts, tokenizer, write_base_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_CONFIGS = {
    # Absolute positions, biases, a fused projection.
    "gpt2": lambda **ends: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **ends),
    # Grouped queries, query biases, untied embeddings.
    "qwen2": lambda **ends: transformers.Qwen2Config(
        **_SHAPE, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False, **ends
    ),
    # A window of attention that is shorter than the sequences, beside layers that see everything.
    "gemma3": lambda **ends: transformers.Gemma3TextConfig(
        **_SHAPE,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=256,
        **ends,
    ),
}
ARCHITECTURES = ("llama", *_CONFIGS)


@pytest.fixture(scope="session")
def write_model(tmp_path_factory) -> Callable[[str], str]:
    """Path of a tiny random language model of an architecture, with the world's tokenizer; do not write there."""
    written: dict[str, str] = {}

    def write(architecture: str) -> str:
        if architecture not in written:
            directory = tmp_path_factory.mktemp("models") / architecture
            _write(architecture, directory)
            written[architecture] = str(directory)
        return written[architecture]

    return write


def _write(architecture: str, directory: Path) -> None:
    if architecture == "llama":
        write_base_model(directory, "tiny", seed=0)
        return
    words = tokenizer()
    ends = {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_CONFIGS[architecture](bos_token_id=None, **ends))
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # neither zero biases nor near-equal logits
    model.save_pretrained(directory)
    words.save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny_model(write_model) -> str:
    """Path of a tiny random Llama (42,208 parameters) with the world's tokenizer; do not write there."""
    return write_model("llama")


@pytest.fixture(scope="session")
def tiny_reward_model(tiny_model, tmp_path_factory) -> str:
    """Path of a tiny scalar model with a random head, a calibration and the world's tokenizer; do not write there."""
    return export_reward_model(tiny_model, tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(params=ARCHITECTURES)
def any_model(request, write_model) -> str:
    """Path of a tiny random language model, one architecture after another; do not write there."""
    return write_model(request.param)


def export_reward_model(base: str, directory: Path, seed: int = 0) -> str:
    """Export a scalar model with the body of ``base`` and a random head."""
    network = RewardNetwork(base)
    head = network.head.weight
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)))
    network.model.config.calibration = {"mean": 0.0, "std": 1.0, "n": 10, "data": "test"}
    renderer = Renderer.load(base)
    ensure_pad_token(network.model, renderer)
    return str(export(network.model, renderer, directory))


@pytest.fixture(scope="session")
def letters(tmp_path_factory) -> str:
    """A scalar model whose tokens are single characters and whose template is a transcript."""
    directory = str(tmp_path_factory.mktemp("letters") / "model")
    alphabet = ["<pad>", "<unk>", "<end>", "\n", *(chr(code) for code in range(32, 127))]
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(alphabet)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(alphabet), max_position_embeddings=1024, pad_token_id=0, eos_token_id=2, num_labels=1,
    )  # fmt: skip
    config.calibration = {"mean": 1.0, "std": 0.5, "n": 4, "data": "letters"}
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def handlers_are_given_back() -> Iterator[None]:
    """What a test's run does with Ctrl-C and SIGTERM must not outlive it: another test would meet it."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


_LOGGERS = (
    "",
    "lightning",
    "lightning.pytorch",
    "lightning.pytorch.utilities",
    "lightning.pytorch.utilities.rank_zero",
)


def _messages() -> list[object]:
    """What decides whether Lightning's messages are heard."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    return [rank_zero_module.log.name, rank_zero_only.rank, *((each.level, each.disabled) for each in loggers)]


@pytest.fixture(autouse=True)
def messages_are_heard_again() -> Iterator[None]:
    """A test that silences Lightning's messages must not do so for those behind it."""
    before = _messages()
    yield
    rank_zero_module.log = logging.getLogger(str(before[0]))
    rank_zero_only.rank = before[1]
    for name, state in zip(_LOGGERS, before[2:], strict=True):
        logger = logging.getLogger(name)
        logger.level, logger.disabled = state  # type: ignore[misc]
        logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> str:
    """What MetaRM learns from: three prompts with two answers each."""
    store = Store(tmp_path_factory.mktemp("meta") / "samples")
    store.begin({"policy": "some"})
    words = [record.chosen for record in WorldDemonstrations(6).records()]
    rows = [
        {
            "messages": [{"role": message.role, "content": message.content} for message in record.prompt],
            "responses": words[2 * number : 2 * number + 2],
            "truncated": [False, False],
            "scores": None,
        }
        for number, record in enumerate(WorldPrompts(3).records())
    ]
    store.write_part(0, rows)
    store.finish(1)
    return str(store.directory)


@pytest.fixture(scope="session")
def lit() -> Callable[..., Any]:
    """Run a Lightning command in this process, quietly and without a logger: ``lit("fit", folder, options)``.

    ``options`` are what a YAML file would hold; further words follow as on the command line. Returns the finished CLI.
    """

    def run(command: str, folder: Path, options: dict[str, Any], *words: str) -> Any:
        from lit_rlhf.cli.stage import run_stage

        quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
        trainer = {"default_root_dir": str(folder), **quiet, **options.get("trainer", {})}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "options.yaml"
        config.write_text(json.dumps({**options, "trainer": trainer}))  # JSON is YAML
        return run_stage([command, "-c", str(config), *words])

    return run


@pytest.fixture
def dies_at(monkeypatch) -> Callable[[type, int], None]:
    """Make a module's training die before the step after so many: ``dies_at(SFTModule, 5)``."""

    def install(module: type, step: int) -> None:
        def hook(self: Any, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == step:
                raise RuntimeError("the machine went down")

        monkeypatch.setattr(module, "on_train_batch_start", hook)

    return install


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.answer(self.path, question, dict(self.headers))  # type: ignore[attr-defined]
        body = answer if isinstance(answer, str) else json.dumps(answer)
        with contextlib.suppress(OSError):  # the other side may have given up
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def serve():
    """Starts HTTP servers: ``serve(answer)`` gives the address of one that answers each question to a path with
    ``answer(path, question, headers) -> (status, text or JSON)``, called from several threads."""
    servers = []

    def start(answer) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads, server.answer = True, answer  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
