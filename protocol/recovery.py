"""A recovery as the command line that one would type.

Decides which actions have one, and how parameters become its words. What a line cannot say has none: the recovery's own
action and parameters are what a program sends.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from protocol.errors import Recovery

PROGRAM = "vrambroker"

ABOUT_A_MODEL = {
    "load_model": "load",
    "unload_model": "unload",
    "pin_model": "pin",
    "unpin_model": "unpin",
    "get_model_info": "info",
    "validate_model": "validate",
    "benchmark_model": "benchmark",
    "unregister_model": "unregister",
}
ABOUT_A_DEVICE = {"drain_device": "drain", "resume_device": "resume", "restart_worker": "restart"}
ABOUT_ALL = {
    "list_models": "models",
    "list_devices": "devices",
    "scan_models": "scan",
    "get_vram_model_status": "status",
}

OPTIONS = {"device_id": "--device", "priority": "--priority", "config_path": "--config-path", "model_path": "--path"}
SWITCHES = {"force": "--force", "force_unload": "--force", "clear_cache": "--clear-cache", "pin": "--pin"}
FLAGS = {
    "enable_attention_slicing": "--attention-slicing",
    "enable_cpu_offloading": "--cpu-offload",
    "enable_model_splitting": "--splitting",
    "enable_compilation": "--compile",
    "enable_flash_attention": "--flash-attention",
}
GROUPS = ("memory_optimization", "performance_optimization")


def command_line(recovery: Recovery) -> str:
    """The line; "" where there is none."""
    action, parameters = recovery.action, dict(recovery.parameters)
    words = [PROGRAM]
    if action in ABOUT_A_MODEL and parameters.get("model_id"):
        words += [ABOUT_A_MODEL[action], str(parameters.pop("model_id"))]
    elif action in ABOUT_A_DEVICE and parameters.get("device_id"):
        words += [ABOUT_A_DEVICE[action], str(parameters.pop("device_id"))]
    elif action in ABOUT_ALL and not parameters:
        words.append(ABOUT_ALL[action])
    else:
        return ""
    configuration = _configured(parameters.pop("configuration", None) or {})
    if configuration is None:
        return ""
    words += configuration
    for name, value in parameters.items():
        if name in OPTIONS and value:
            words += [OPTIONS[name], str(value)]
        elif name in SWITCHES and value is True:
            words.append(SWITCHES[name])
        else:
            return ""
    return shlex.join(words)


def _configured(configuration: Mapping[str, Any]) -> list[str] | None:
    """The words of a load configuration; None for what a line cannot say."""
    words: list[str] = []
    for name, value in configuration.items():
        if name == "precision":
            words += ["--precision", str(value)]
        elif name in GROUPS and isinstance(value, Mapping) and all(flag in FLAGS for flag in value):
            words += [FLAGS[flag] for flag, wanted in value.items() if wanted]
        else:
            return None
    return words
