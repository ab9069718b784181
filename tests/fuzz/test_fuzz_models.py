"""Two thousand bad values in the configurations of every demo model, and whole folders spoilt; `make fuzz` goes on."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from demo.inventory import DemoModel
from protocol.errors import ErrorCode
from tests.fuzz.models import fuzz_folders, fuzz_values

VALUES = {DemoModel.SD15: 600, DemoModel.SDXL: 500, DemoModel.SD3: 500, DemoModel.FLUX: 400}
FOLDERS = {DemoModel.SD15: 100, DemoModel.FLUX: 100}
SEED = 1


@pytest.mark.timeout(400)
def test_no_value_and_no_file_of_a_folder_does_more_than_be_refused(model_root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        values = [pool.submit(fuzz_values, model_root / model, SEED, count) for model, count in VALUES.items()]
        folders = [pool.submit(fuzz_folders, model_root / model, SEED, count) for model, count in FOLDERS.items()]
        of_values: Counter[str] = sum((one.result() for one in values), Counter())
        of_folders: Counter[str] = sum((one.result() for one in folders), Counter())
    assert of_values.total() == sum(VALUES.values()) == 2000
    assert of_folders.total() == sum(FOLDERS.values())
    codes = {ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.MODEL_CORRUPTED, ErrorCode.UNSAFE_MODEL}
    assert {"", *(code.value for code in codes)} == {*of_values}
    assert {"drawn", *(code.value for code in codes)} <= {*of_folders}
