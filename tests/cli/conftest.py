"""Shared by the tests of experiments."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_rlhf.cli import experiment


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Names of the stages that would have run; none really does."""
    names: list[str] = []
    original = experiment._run_now

    def note(stage, *rest):
        names.append(stage.name)
        original(stage, *rest)

    monkeypatch.setattr(experiment, "_run_now", note)
    monkeypatch.setattr(experiment, "_run_lightning", lambda *args: {"fake": 1.0})
    monkeypatch.setattr(experiment, "call", lambda *args, **kwargs: {"fake": 1.0})
    return names


@pytest.fixture
def write_experiment() -> Callable[..., str]:
    """Write an experiment of some stages, each a line of YAML: ``write_experiment(path, stage, ..., seed=1)``."""

    def write(path: Path, *stages: str, **head) -> str:
        listed = "stages:\n" + "".join(f"  - {stage}\n" for stage in stages)
        path.write_text((yaml.safe_dump(head) if head else "") + listed)
        return str(path)

    return write
