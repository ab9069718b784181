"""Bytes of models on a device that share components: none is counted twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from protocol.telemetry import ModelResidency


def bytes_beside(model: ModelResidency, others: AbstractSet[str]) -> int:
    """A model's bytes without the components that one of these models (ids) has too."""
    return model.bytes - sum(part.bytes for part in model.components if others & set(part.shared_with))


def bytes_together(models: Iterable[ModelResidency]) -> int:
    """The bytes of several models, shared components once."""
    total, counted = 0, set[str]()
    for model in models:
        total += bytes_beside(model, counted)
        counted.add(model.model_id)
    return total
