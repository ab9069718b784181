"""A catalogue over a folder of tiny models, and devices that hold some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.catalogue import Catalogue
from catalog.scan import Scan
from catalog.sidecar import Sidecars
from catalog.store import Store
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import replies as r
from protocol.enums import ComponentType, DeviceKind, DeviceState, HashDepth, ModelPrecision, ModelStatus, Tier
from protocol.link import RunFacts, UsageFact
from protocol.records import ModelMemoryUsage, ModelPerformance
from protocol.telemetry import ComponentResidency, DeviceIdentity, DeviceReport, ModelResidency

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)


class Shelf:
    """The catalogue of one root; `reopen` is a restart of its process."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        root.mkdir(parents=True, exist_ok=True)
        self.store = Store(data)
        roots = Roots([root])
        self.catalogue = Catalogue(self.store, roots, Sidecars(data / "sidecars", roots))

    def scan(self, depth: HashDepth = HashDepth.NONE, *roots: str) -> r.ScanModelsReply:
        return self.finish(self.catalogue.scan_models(c.ScanModels(hash=depth, roots=list(roots))))

    def finish(self, scan: Scan) -> r.ScanModelsReply:
        for _ in scan.steps():
            pass
        self.catalogue.finish_scan(scan)
        return self.catalogue.scan_reply(scan, "r")

    def mark(self) -> int:
        """The work of idle times; how many models it was for."""
        work = self.catalogue.spare_work()
        if work is None:
            return 0
        for _ in work.steps():
            pass
        work.finish()
        return len(work.model_ids)

    def update(self, model_id: str, metadata: dict[str, object], **fields: object) -> r.UpdateMetadataReply:
        """`update_metadata`, in steps where it takes some."""
        command = c.UpdateMetadata(model_id=model_id, metadata=metadata, **fields)  # type: ignore[arg-type]
        work = self.catalogue.begin(command)
        if work is None:
            reply = self.catalogue.answer(command, "r")
        else:
            for _ in work.steps():
                pass
            work.finish()
            reply = work.reply("r")
        assert isinstance(reply, r.UpdateMetadataReply)
        return reply

    def info(self, model_id: str, **fields: object) -> r.GetModelInfoReply:
        reply = self.catalogue.answer(c.GetModelInfo(model_id=model_id, **fields), "r")  # type: ignore[arg-type]
        assert isinstance(reply, r.GetModelInfoReply)
        return reply

    def listed(self, **fields: object) -> r.ListModelsReply:
        reply = self.catalogue.answer(c.ListModels(**fields), "r")  # type: ignore[arg-type]
        assert isinstance(reply, r.ListModelsReply)
        return reply

    def ids(self, **fields: object) -> list[str]:
        return [model.id for model in self.listed(**fields).models]

    def register(self, path: Path | str, **fields: object) -> r.RegisterModelReply:
        reply = self.catalogue.answer(c.RegisterModel(model_path=str(path), **fields), "r")  # type: ignore[arg-type]
        assert isinstance(reply, r.RegisterModelReply)
        return reply

    def unregister(self, model_id: str) -> r.UnregisterModelReply:
        reply = self.catalogue.answer(c.UnregisterModel(model_id=model_id), "r")
        assert isinstance(reply, r.UnregisterModelReply)
        return reply

    def use(self, model_id: str, device_id: str = "cpu:0", **facts: object) -> None:
        fact = UsageFact(
            model_id=model_id,
            device_id=device_id,
            action="generate",
            success=True,
            ended_at=NOW,
            facts=RunFacts(**facts),  # type: ignore[arg-type]
        )
        self.catalogue.record(fact)

    def reopen(self) -> Shelf:
        self.store.close()
        return Shelf(self.root, self.data)


def dies_at(point: str, *, after: bool, act: Callable[[], object]) -> None:
    """In a child of a fork: acts, and ends with status 9 before or after a call of this name, with 8 without one."""
    owner: Any = Path if point == "replace" else os
    real = getattr(owner, point)

    def crash(*args: Any, **kwargs: Any) -> Any:
        if after:
            real(*args, **kwargs)
        os._exit(9)

    try:
        setattr(owner, point, crash)
        act()
    finally:
        os._exit(8)


def residency(model_id: str, tier: Tier = Tier.VRAM, tiers: Sequence[Tier] = (), **fields: object) -> ModelResidency:
    parts = [
        ComponentResidency(name="unet", type=ComponentType.UNet, bytes=70, tier=tier),
        ComponentResidency(name="vae", type=ComponentType.VAE, bytes=30, tier=Tier.RAM),
    ]
    values: dict[str, object] = {
        "model_id": model_id,
        "status": ModelStatus.Loaded if tier is Tier.VRAM else ModelStatus.Available,
        "tier": tier,
        "tiers": list(tiers) or [tier],
        "bytes": 100,
        "precision": ModelPrecision.Float32,
        "loaded_at": NOW,
        "last_used": NOW,
        "memory": ModelMemoryUsage(model_memory_bytes=100, cache_memory_bytes=40, peak_memory_bytes=150),
        "performance": ModelPerformance(),
        "components": parts,
    }
    return ModelResidency(**{**values, **fields})  # type: ignore[arg-type]


def device(device_id: str, *models: ModelResidency) -> DeviceReport:
    kind = DeviceKind(device_id.partition(":")[0])
    identity = DeviceIdentity(
        device_id=device_id, uuid=f"uuid-{device_id}", name=f"Name of {device_id}", kind=kind, total_vram=1000
    )
    return DeviceReport(identity=identity, state=DeviceState.READY, models=list(models))
