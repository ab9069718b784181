"""The one authority on what loads and runs are expected to take: every model's figures on every make of device.

It is told facts, and turned into bytes for whoever keeps them across restarts. How figures are derived is theirs
(`broker.core.figures`). Knows no clock, no devices and no files.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
from msgspec import Struct

from broker.core.figures import ACTION_MS, Average, Figures, Measured, Outlook, Rates, Shape
from protocol.link import ModelRef, RunFacts

MOST_MODELS = 2048
"""Pairs of model and make whose measurements are kept."""


class _Entry(Struct):
    model_id: str
    make: str
    measured: Measured


class _Book(Struct):
    """What is kept across restarts."""

    rates: dict[str, Rates]
    models: list[_Entry]
    version: int = 1


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Book)


class Estimates:
    """The figures of every model on every make that it was asked of; those asked for least recently are forgotten.

    `changed` is true once there is something new to keep.
    """

    def __init__(self, kept: bytes = b"") -> None:
        """From what `encode` made before. Raises msgspec.DecodeError (or ValueError) on anything else."""
        self.changed = False
        self._rates: dict[str, Rates] = {}
        self._records: OrderedDict[tuple[str, str], Measured] = OrderedDict()
        self._figures: dict[tuple[str, str], Figures] = {}
        if kept:
            book = _decoder.decode(kept)
            self._rates = book.rates
            self._records.update({(entry.model_id, entry.make): entry.measured for entry in book.models})

    def of(self, model: ModelRef, make: str) -> Figures:
        """The figures of a model on a make, `KIND` or `KIND NAME`."""
        key = (model.model_id, make)
        figures = self._figures.get(key)
        if figures is None or figures.model is not model:
            figures = self._figures[key] = self._new(model, make, key)
        return figures

    def outlook(self, model: ModelRef, make: str, shape: Shape) -> Outlook:
        """Everything that is expected of a shape of run, kept until something new was measured."""
        figures = self._figures.get((model.model_id, make))
        if figures is None or figures.model is not model:
            figures = self.of(model, make)
        return figures.outlook(shape)

    def encode(self) -> bytes:
        """Everything measured, for the next start; `changed` is false then."""
        self.changed = False
        entries = [_Entry(model, make, record) for (model, make), record in self._records.items() if _known(record)]
        return _encoder.encode(_Book(self._rates, entries))

    def learn(self, model: ModelRef, make: str, shape: Shape, facts: RunFacts | None, elapsed_ms: float) -> None:
        """Take in a command that succeeded: what its worker measured, or the time that it took."""
        figures = self.of(model, make)
        if facts is not None:
            figures.learn(shape, facts)
        elif shape.action in ACTION_MS:
            figures.learn_elapsed(shape, elapsed_ms)
        self._records.move_to_end((model.model_id, make))
        self.changed = True

    def forget(self, model_id: str) -> None:
        """Drop what was measured of a model that is no more."""
        for key in [key for key in self._records if key[0] == model_id]:
            del self._records[key]
            self._figures.pop(key, None)
            self.changed = True

    def _new(self, model: ModelRef, make: str, key: tuple[str, str]) -> Figures:
        record = self._records.get(key)
        if record is None or record.size_bytes != model.size_bytes:
            record = self._records[key] = Measured(model.size_bytes, Average(), Average(), Average(), {})
            while len(self._records) > MOST_MODELS:
                forgotten, _ = self._records.popitem(last=False)
                self._figures.pop(forgotten, None)
        rates = self._rates.get(make)
        if rates is None:
            rates = self._rates[make] = Rates(make.partition(" ")[0], Average(), Average(), Average())
        return Figures(model, rates, record)


def _known(record: Measured) -> bool:
    return bool(record.disk.samples or record.ram.samples or record.runs or record.weights_bytes)
