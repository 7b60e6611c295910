"""One stage: a Lightning run of one module on the shared DataModule."""

import logging
import signal
import threading
import warnings
from typing import Any

import transformers
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lit_rlhf.cli.best import Best
from lit_rlhf.cli.callbacks import Export, History, SaveConfig
from lit_rlhf.cli.checkpoints import Checkpoint, RandomState, check_checkpoint, check_strategy, model_options
from lit_rlhf.cli.generations import Generations
from lit_rlhf.cli.lineage import job_type
from lit_rlhf.cli.options import check_manual, without_checkpoints
from lit_rlhf.cli.panel import Panel
from lit_rlhf.cli.parser import PlainLightningParser, keep_paths, know_classes
from lit_rlhf.cli.shards import check_bytes
from lit_rlhf.cli.throughput import Throughput
from lit_rlhf.cli.tracking import Wandb, finish
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.networks.fast import FastPaths
from lit_rlhf.networks.finite import StepGuard
from lit_rlhf.networks.module import NetworkModule
from lit_rlhf.networks.optimizer import check_weights
from lit_rlhf.networks.progress import progress_bar
from lit_rlhf.networks.wrapping import check_wrapping
from lit_rlhf.policy.checks import check_averaging

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": {"class_path": "lit_rlhf.cli.tracking.Wandb"},
    "default_root_dir": "runs/latest",
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data's own sampler shards, and keeps its length buckets
}


class StageCLI(LightningCLI):
    """LightningCLI with this project's module base, data, defaults and callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``fast``, ``checkpoint``, ``best``, ``guard``, ``export``, ``history``, ``generations``, ``panel``."""
        parser.add_class_arguments(FastPaths, "fast")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        # Without version counter: last.ckpt is the last one, not the first run's beside a last-v1.ckpt.
        defaults = {"save_last": True, "save_top_k": 0, "every_n_train_steps": 100, "enable_version_counter": False}
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.items()})
        parser.add_lightning_class_args(Best, "best")
        parser.add_lightning_class_args(StepGuard, "guard")
        parser.add_lightning_class_args(Export, "export")
        parser.add_lightning_class_args(Throughput, "throughput")  # before the history, which writes what it logs
        parser.add_lightning_class_args(History, "history")
        parser.add_lightning_class_args(Generations, "generations")
        parser.add_lightning_class_args(Panel, "panel")
        parser.add_lightning_class_args(RandomState, "random_state")
        parser.link_arguments("data.max_length", "model.init_args.max_length")  # of modules that read texts themselves
        keep_paths(parser)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        given = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False and not any(isinstance(each, ProgressBar) for each in given):
            callbacks = [*callbacks, progress_bar()]
        return super()._instantiate_trainer(config, without_checkpoints(config, callbacks))

    def before_instantiate_classes(self) -> None:
        """Settle which fast ways are taken, for this process and those that it starts."""
        command = self.config.get("subcommand")
        FastPaths(**(self.config[command] if command else self.config)["fast"]).use()

    def after_instantiate_classes(self) -> None:
        """Refuse what would train wrongly, and let W&B write into the run's folder unless the options name another."""
        command = self.config.get("subcommand")
        self._link()
        path = (self.config[command] if command else self.config).get("ckpt_path")
        self._check_strategy(writes=command == "fit")
        if command == "fit":
            check_manual(self.trainer, self.model)
        if path is not None and path not in ("best", "hpc"):
            check_strategy(path, self.trainer.strategy, resumes=command == "fit")
            ours = [each for each in self.trainer.checkpoint_callbacks if isinstance(each, Checkpoint)]
            if self.trainer.world_size == 1 or not ours:
                check_bytes(path)
            else:  # they look at it when they have met
                ours[0].goes_on_from = path
        for logger in self.trainer.loggers:
            if isinstance(logger, Wandb):
                logger.settle(str(self.trainer.default_root_dir), job_type(type(self.model).__name__))

    def _link(self) -> None:
        """Tell the data what the module is trained on, and the module how the data write it."""
        data, module = self.datamodule, self.model
        data.view = getattr(module, "view", data.view)
        data.tokenizer = data.tokenizer or getattr(module, "tokenizer", None)
        module._log_hyperparams = False  # the config, which is logged, holds them  # pyright: ignore[reportPrivateUsage]
        if isinstance(module, NetworkModule):
            module.renderer = {"path": data.tokenizer, "template": data.template, "thinking": data.thinking}

    def _check_strategy(self, writes: bool) -> None:
        """Refuse options of strategies that do not do here what they say.

        Args:
            writes: Whether checkpoints are written.
        """
        check_weights(self.trainer)  # before any data are read
        strategy, where = self.trainer.strategy, "option trainer.strategy.init_args"
        parts = getattr(strategy, "_tensor_parallel_size", 1)
        if isinstance(strategy, ModelParallelStrategy) and parts != 1:
            hint = "Give 1, and the number of all processes as data_parallel_size; see configs/trainer/fsdp2.yaml."
            raise DataError(f"is {parts}, and products are not split here", f"{where}.tensor_parallel_size", hint)
        if isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
            check_averaging(self.trainer)
        if isinstance(strategy, FSDPStrategy):
            check_wrapping(strategy, where, writes)

    def _parse_ckpt_path(self) -> None:
        """Keep the options as given, and refuse a checkpoint that does not fit them.

        Lightning would silently put the checkpoint's model options in their place.
        """
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        path = config.get("ckpt_path")
        if path in ("last", "best"):
            folder = config.checkpoint.dirpath or f"{config.trainer.default_root_dir}/checkpoints"
            path = config["ckpt_path"] = f"{folder}/{path}.ckpt"
        if path is None or path == "hpc":
            return  # found by Lightning itself
        if "://" in path or path.startswith("registry"):
            # Lightning would load a file from elsewhere with everything in it, code included.
            raise DataError("is no file on this machine", f"ckpt_path {path}", "Download it, if you trust it.")
        check_checkpoint(path, model_options(self._parser(command), config), resume=command == "fit")


def make_cli(args: ArgsType = None, run: bool = True) -> StageCLI:
    """Parse a stage's arguments; with ``run``, run the subcommand that they begin with."""
    quieten()
    know_classes()
    return StageCLI(
        LightningModule,
        PreferenceDataModule,
        trainer_class=Trainer,
        trainer_defaults=TRAINER_DEFAULTS,
        parser_class=PlainLightningParser,
        parser_kwargs={"prog": "lit-rlhf"},
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        args=args,
        run=run,
    )


def run_stage(args: ArgsType) -> StageCLI:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` with its options.

    Raises:
        KeyboardInterrupt: If Ctrl-C stopped it; its argument, if any, is the checkpoint to go on from.
        Terminated: The same, if SIGTERM did.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        return make_cli(args)
    except SystemExit as stopped:  # Lightning's way of ending an interrupted run
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise type(stopped.__context__)(*stopped.__context__.args) from None
        raise
    finally:
        if main_thread and handler is not None:
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it turned off
        finish()  # the next stage in this process gets a W&B run of its own


def let_go(cli: StageCLI) -> None:
    """Drop what a stage that is over has built: the parser keeps the object that holds it, and so all weights."""
    for name in ("model", "datamodule", "trainer", "config_init"):
        vars(cli).pop(name, None)


def quieten() -> None:
    """Silence hints that do not apply here."""
    for hint in (
        ".*does not have many workers.*",  # rows are tokenised once, collating them costs nothing
        r".*module\(s\) in eval mode.*",  # reference, reward and PPO's policy are meant to be
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists.*",
        ".*is an instance of `nn.Module` and is already saved.*",
        ".*predict returned None.*",
        ".*manual optimization and every_n_train_steps.*",  # between two iterations there is only one state
        ".*Trying to infer the `batch_size`.*",
        ".*weights_only.*",
        ".*set_vital.*",
        ".*custom batch sampler.*",  # the sampler drops nothing when predicting
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*Total length of `list` across ranks is zero.*",  # the history says it in plainer words
        ".*args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", hint)
    unwanted = ("litlogger", "litmodels", "TPU available", "to estimate number of stepping batches")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(logger).addFilter(lambda record: not any(word in record.getMessage() for word in unwanted))
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # a fresh head and long texts are expected, and handled here
