"""The house rules that a machine can hold: who imports whom, who may touch what, how long things are.

Nothing of the project is imported here: the sources are read.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "protocol": set(),
    "settings": {"protocol"},
    "modelfiles": {"protocol", "settings"},
    "ramtier": {"protocol", "settings"},
    "catalog": {"protocol", "settings", "modelfiles"},
    "worker": {"protocol", "settings", "modelfiles", "ramtier"},
    "web": {"protocol", "settings", "modelfiles", "client"},
    "broker": {"protocol", "settings", "modelfiles", "ramtier", "web"},
    "client": {"protocol", "settings", "modelfiles"},
    "loadgen": {"protocol", "settings", "modelfiles", "client"},
    "soak": {"protocol", "settings", "modelfiles", "client"},
    "cli": {"protocol", "settings", "modelfiles", "client", "catalog", "worker", "broker", "loadgen", "soak"},
}
"""Which packages each package may name; demo, bench and reference stand apart: nobody imports them."""
PRODUCT = [*MAY_IMPORT, "demo", "reference"]
HEAVY = {"torch", "diffusers", "transformers"}
TORCH_FILES = {
    "worker/arena.py",
    "worker/attention.py",
    "worker/components.py",
    "worker/configurations.py",
    "worker/devices/cpu.py",
    "worker/devices/cuda.py",
    "worker/devices/torch_device.py",
    "worker/examining.py",
    "worker/filling.py",
    "worker/holding.py",
    "worker/identity.py",
    "worker/larder.py",
    "worker/livetensors.py",
    "worker/lora.py",
    "worker/originals.py",
    "worker/parts.py",
    "worker/pipelines.py",
    "worker/prompts.py",
    "worker/quantization.py",
    "worker/reader.py",
    "worker/replacing.py",
    "worker/run.py",
    "worker/running.py",
    "worker/saving.py",
    "worker/scales.py",
    "worker/schedules.py",
    "worker/singles.py",
    "worker/skeleton.py",
    "worker/stock.py",
    "worker/streaming.py",
    "worker/trials.py",
    "worker/weights.py",
    "worker/words.py",
}
"""The worker's files that may name torch, diffusers or transformers; the rest of it starts without them."""
MOST_LINES = 400
MOST_FUNCTION_LINES = 45
"""Of a function's body: a signature, long as an options table may be, is no step."""


def sources(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


FILES = [
    pytest.param(package, path, id=str(path.relative_to(ROOT))) for package in PRODUCT for path in sources(package)
]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(path: Path) -> set[str]:
    """The first words of everything that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


def attribute_chains(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize(("package", "path"), FILES)
def test_imports_run_one_way(package: str, path: Path) -> None:
    ours = imported(path) & {*PRODUCT, "bench", "tests"}
    allowed = {*MAY_IMPORT.get(package, MAY_IMPORT), package, *({"demo"} if package == "reference" else ())}
    assert ours <= allowed, f"{path.relative_to(ROOT)} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize(("package", "path"), FILES)
def test_torch_is_known_to_the_worker_and_the_demo_alone(package: str, path: Path) -> None:
    if package != "demo" and path.relative_to(ROOT).as_posix() not in TORCH_FILES:
        assert not imported(path) & HEAVY


def test_the_table_of_torchs_files_names_none_that_does_without() -> None:
    assert {name for name in TORCH_FILES if not imported(ROOT / name) & HEAVY} == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in sources("protocol")])
def test_the_protocol_knows_msgspec_and_the_standard_library_and_does_no_io(path: Path) -> None:
    used = imported(path) - {"protocol", "msgspec"}
    assert used <= sys.stdlib_module_names
    assert not used & {"socket", "subprocess", "pathlib", "io", "tempfile", "shutil", "asyncio", "threading", "logging"}
    calls = {
        node.func.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}
    assert not {"os.environ", "os.getenv", "os.open"} & set(attribute_chains(path))


@pytest.mark.parametrize(("package", "path"), FILES)
def test_the_settings_alone_read_the_projects_environment(package: str, path: Path) -> None:
    if package in {"settings", "demo"}:
        return
    texts = {
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("VRAMBROKER_")
    }
    reads = {"os.environ", "os.getenv"} & set(attribute_chains(path))
    assert not (texts and reads), f"{path.relative_to(ROOT)} reads {sorted(texts)}"


def started_with(path: Path) -> Iterator[list[str]]:
    """The words of every command in a file that runs a module or a text, as far as they are written there."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.List):
            words = [item.value if isinstance(item, ast.Constant) else ast.unparse(item) for item in node.elts]
            if any("executable" in str(word) or "python_of" in str(word) for word in words):
                yield [str(word) for word in words]


@pytest.mark.parametrize("package", [*PRODUCT, "bench", "tests"])
def test_no_process_imports_from_the_folder_that_it_was_started_in(package: str) -> None:
    for path in sources(package):
        for words in started_with(path):
            if {"-m", "-c"} & set(words):
                assert any("-P" in word.split() for word in words), f"{path.relative_to(ROOT)} starts {words}"


def test_no_target_imports_from_the_folder_that_it_was_started_in() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if " -m " in line or " -c " in line]
    started = [line for line in lines if "python" in line.lower() or "$$p" in line]
    assert started and all(" -P " in line or " -I " in line for line in started)


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_file_fits_on_a_few_screens(package: str, path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_function_does_one_step(package: str, path: Path) -> None:
    long = [
        f"{node.name} ({length} lines)"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.body[0].lineno + 1) > MOST_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize(("package", "path"), FILES)
def test_every_module_says_what_it_decides(package: str, path: Path) -> None:
    tree = tree_of(path)
    assert not tree.body or ast.get_docstring(tree)
