"""The environment that torch and its libraries are to find. Decides it before any of them is imported."""

from __future__ import annotations

import os

from protocol.link import WorkerSpec


def pin(spec: WorkerSpec) -> None:
    """Show this process its one device and no network. Called before torch is imported.

    A cpu device sees no accelerator at all.
    """
    if spec.threads:
        os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = spec.cuda_uuid
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
