"""Whatever is wrong with one part of a model: a typed answer that names the part, nothing placed, the worker alive."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from demo.inventory import DemoModel
from modelfiles.model import inspect
from modelfiles.modes import modes_of
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.drawing import Mode
from protocol.errors import ErrorCode, Fault
from protocol.replies import GenerateReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.misfits import Misfit, make, misfits
from worker.devices.base import Raster
from worker.pictures import plain_png

REFUSED = {ErrorCode.MODEL_INCOMPATIBLE.value, ErrorCode.MODEL_CORRUPTED.value}
MAY_DRAW = {"foreign", "unnamed", "none"}
"""Changes after which some models still draw: an encoder that another model has too, one that is optional."""

GREY = plain_png(Raster(width=64, height=64, rgb=bytes([200]) * 64 * 64 * 3))


def outcome_of(misfit: Misfit, models: Path, root: Path) -> str:
    """The code with which a changed model is refused, "drew" where it draws, "" where there is nothing to change."""
    bench = Bench(root, worker_spec(root))
    name = make(misfit, models, root)
    if not name:
        return ""
    try:
        reply = bench.run(c.LoadModel(model_id=name), name).reply
    except Fault as fault:
        # What the catalogue refuses, the worker refuses by the same words.
        info = fault.info
    else:
        if reply.success:
            return _drawn(bench, name)
        assert reply.error is not None
        info = reply.error
        assert bench.engine.device.gauge().used == 0, misfit
    assert misfit.part in info.message or misfit.part in str(info.details), (misfit, info)
    return info.code.value


def _drawn(bench: Bench, name: str) -> str:
    modes = modes_of(inspect(bench.root / name, Roots([bench.root])))
    names = [] if Mode.TEXT in modes else ["image-0"] if Mode.IMAGE in modes else ["image-0", "mask"]
    attached = [c.Attachment(name=one, media_type="image/png", bytes=len(GREY)) for one in names]
    command = c.Generate(model_id=name, prompt="x", seed=1, steps=2, width=64, height=64, attachments=attached)
    reply = bench.run(command, name, [GREY] * len(names)).reply
    assert isinstance(reply, GenerateReply), reply.error
    return "drew"


@pytest.mark.parametrize("model", list(DemoModel))
def test_one_part_that_does_not_fit_is_told_by_its_name_at_the_load(
    model_root: Path, tmp_path: Path, model: DemoModel
) -> None:
    torch.set_num_threads(1)
    codes: Counter[str] = Counter()
    for misfit in misfits(model_root):
        if misfit.model is model:
            root = tmp_path / f"{misfit.part}-{misfit.change}"
            root.mkdir()
            code = outcome_of(misfit, model_root, root)
            assert code in {"", "drew"} | REFUSED, (misfit, code)
            assert code != "drew" or misfit.change in MAY_DRAW, misfit
            codes[code] += 1
            shutil.rmtree(root)
    assert codes["MODEL_CORRUPTED"] > 2 and codes["MODEL_INCOMPATIBLE"] > 2, codes
