"""What every test may use: the demo models, made once for this checkout."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_MODELS = _TESTS.parent / "build" / "test-models"
_SLOW = (
    "bench",
    "broker/test_auth.py",
    "broker/test_supervisor.py",
    "catalog/test_catalog_process.py",
    "chaos",
    "cli/test_cli_commands.py",
    "cli/test_cli_config.py",
    "cli/test_cli_completion.py",
    "cli/test_cli_mending.py",
    "cli/test_selftest.py",
    "configs",
    "demo",
    "fuzz/test_fuzz.py",
    "fuzz/test_fuzz_models.py",
    "gpu",
    "integration",
    "loadgen/test_running.py",
    "cli/test_cli_loadgen.py",
    "cli/test_cli_recording.py",
    "reference/test_exchanges.py",
    "reference/test_python_page.py",
    "simulation",
    "soak/test_running.py",
    "web",
    "worker/test_arena.py",
    "worker/test_benchmark.py",
    "worker/test_components.py",
    "worker/test_control.py",
    "worker/test_copier.py",
    "worker/test_cpu.py",
    "worker/test_ladder.py",
    "worker/test_layouts.py",
    "worker/test_lora.py",
    "worker/test_misfits.py",
    "worker/test_modes.py",
    "worker/test_optimize.py",
    "worker/test_options.py",
    "worker/test_nvml.py",
    "worker/test_originals.py",
    "worker/test_process.py",
    "worker/test_prompts.py",
    "worker/test_quantization.py",
    "worker/test_reader.py",
    "worker/test_replacing.py",
    "worker/test_residency.py",
    "worker/test_scales.py",
    "worker/test_schedules.py",
    "worker/test_skeleton.py",
    "worker/test_stock.py",
    "worker/test_streaming.py",
    "worker/test_swaps.py",
    "worker/test_validate.py",
    "worker/test_words.py",
)
"""Folders and files whose tests start processes, import torch or take long: `make check` leaves them out."""


_QUICK_ONLY = "not slow"


def _is_slow(path: Path) -> bool:
    return any(path.is_relative_to(_TESTS / name) for name in _SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that are left out are not even imported."""
    return True if config.option.markexpr == _QUICK_ONLY and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The quick tests stay quick: one that imports torch belongs among the slow ones."""
    if session.config.option.markexpr == _QUICK_ONLY and "torch" in sys.modules:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write("a quick test imported torch: name its file in tests/conftest.py\n")


@pytest.fixture(scope="session")
def model_root() -> Path:
    """A folder with every demo model. Read only: copy what a test changes."""
    from demo.models import make_models  # noqa: PLC0415 - only tests that need models pay for torch

    _MODELS.mkdir(parents=True, exist_ok=True)
    with (_MODELS.parent / "test-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_models(_MODELS)
    return _MODELS
