"""The environment wins over the file, the file over the defaults; what cannot be obeyed is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.enums import DeviceKind, ModelPrecision
from protocol.replies import Limits
from protocol.supervision import Preload
from settings import host
from settings.config import DeviceRequest, Settings, devices, load, place, size
from settings.file import ConfigError

MIB = 1 << 20
Toml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    def write(text: str) -> Path:
        path = tmp_path / "vrambroker.toml"
        path.write_text(text)
        return path

    return write


def cpus(count: int) -> tuple[DeviceRequest, ...]:
    return tuple(DeviceRequest(kind=DeviceKind.CPU, index=index) for index in range(count))


def test_without_anything_the_defaults_of_the_wire_are_in_force(tmp_path: Path) -> None:
    settings = load(environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert settings.commands == "tcp://127.0.0.1:5555"
    assert settings.events == "tcp://127.0.0.1:5556"
    assert settings.web == "127.0.0.1:9555"
    assert settings.drain_seconds == 10
    assert settings.runtime == tmp_path / "vrambroker"
    assert settings.ram_bytes == host.memory_bytes() // 4
    assert settings.data == settings.runtime / "data"
    assert settings.outputs == settings.runtime / "outputs"
    assert settings.devices is None
    assert settings.models == ()
    assert settings.admin is False
    assert settings.limits == Limits()


# variable, its text, the setting, its value; then the same setting in the file, and what that says
Row = tuple[str, str, str, Any, str, Any]
SETTINGS: list[Row] = [
    ("COMMANDS", "tcp://127.0.0.1:1", "commands", "tcp://127.0.0.1:1", 'commands = "tcp://127.0.0.1:2"', None),
    ("EVENTS", "tcp://127.0.0.1:1", "events", "tcp://127.0.0.1:1", 'events = "tcp://127.0.0.1:2"', None),
    ("WEB", "127.0.0.1:0", "web", "127.0.0.1:0", 'web = "127.0.0.1:2"', None),
    ("WORKERS", "tcp://127.0.0.1:1", "workers", "tcp://127.0.0.1:1", 'workers = "tcp://127.0.0.1:2"', None),
    ("RUNTIME", "/run/one", "runtime", Path("/run/one"), 'runtime = "/run/two"', Path("/run/two")),
    ("DATA", "/data/one", "data", Path("/data/one"), 'data = "/data/two"', Path("/data/two")),
    ("MODELS", "/a:/b", "models", (Path("/a"), Path("/b")), 'models = ["/c", "/d"]', (Path("/c"), Path("/d"))),
    ("DEVICES", "cpu:2", "devices", cpus(2), 'devices = "cpu:1"', cpus(1)),
    ("VRAM", "512MiB", "vram_bytes", 512 * MIB, 'vram = "256MiB"', 256 * MIB),
    ("RAM", "512MiB", "ram_bytes", 512 * MIB, 'ram = "0"', 0),
    ("RAM", "1GiB", "ram_bytes", 1 << 30, "ram = 4096", 4096),
    ("PRELOAD", "a, b@cpu:1", "preload", (Preload(model="a"), Preload(model="b", device="cpu:1")), "preload = []", ()),
    (
        "PRELOAD",
        "a@b@all",
        "preload",
        (Preload(model="a@b", device="all"),),
        'preload = ["x@y"]',
        (Preload(model="x@y"),),
    ),
    ("DRAIN", "2.5", "drain_seconds", 2.5, "drain_seconds = 4", 4.0),
]


@pytest.mark.parametrize("row", SETTINGS, ids=[row[0] for row in SETTINGS])
def test_the_environment_wins_over_the_file_and_the_file_over_the_default(row: Row, toml: Toml) -> None:
    variable, text, setting, value, line, written = row
    environment = {f"VRAMBROKER_{variable}": text}
    path = toml(line)
    from_file = line.split(" = ")[1].strip('"') if written is None else written
    assert getattr(load(environment=environment), setting) == value
    assert getattr(load(path, environment=environment), setting) == value
    assert getattr(load(path, environment={}), setting) == from_file
    assert getattr(load(path, environment={f"VRAMBROKER_{variable}": ""}), setting) == from_file


def test_the_file_has_the_rest(toml: Toml) -> None:
    text = (
        'outputs = "/out"\nreserve = "64MiB"\nheartbeat_ms = 100\nsilence_ms = 900\ntelemetry_ms = 50\nadmin = true\n'
    )
    settings = load(toml(text + "[limits]\npage_size = 10\nqueued_total = 5\n"), environment={})
    assert settings.outputs == Path("/out")
    assert settings.reserve_bytes == 64 * MIB
    assert (settings.heartbeat_ms, settings.silence_ms, settings.telemetry_ms) == (100, 900, 50)
    assert settings.admin is True
    assert settings.limits == Limits(page_size=10, queued_total=5)


def test_the_environment_names_the_file_and_the_argument_wins(toml: Toml, tmp_path: Path) -> None:
    path = toml('web = "127.0.0.1:1"')
    assert load(environment={"VRAMBROKER_CONFIG": str(path)}).web == "127.0.0.1:1"
    other = tmp_path / "other.toml"
    other.write_text('web = "127.0.0.1:2"')
    assert load(other, environment={"VRAMBROKER_CONFIG": str(path)}).web == "127.0.0.1:2"


def test_data_and_outputs_lie_beneath_the_runtime_folder_by_default() -> None:
    settings = load(environment={"VRAMBROKER_RUNTIME": "/run/x"})
    assert (settings.data, settings.outputs) == (Path("/run/x/data"), Path("/run/x/outputs"))


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environment={"VRAMBROKER_RUNTIME": "run", "VRAMBROKER_MODELS": "a::b:"})
    assert settings.runtime == tmp_path / "run"
    assert settings.models == (tmp_path / "a", tmp_path / "b")


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMBROKER_DRAIN", "7")
    monkeypatch.setenv("VRAMBROKER_RUNTIME", "/run/y")
    assert load().drain_seconds == 7
    assert place().runtime == Path("/run/y")


def test_the_runtime_folder_is_the_users_own(tmp_path: Path) -> None:
    assert place({"XDG_RUNTIME_DIR": str(tmp_path)}).runtime == tmp_path / "vrambroker"
    assert place({}).runtime.name.startswith("vrambroker-")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("512MiB", 512 * MIB),
        ("512 mib", 512 * MIB),
        (" 1.5 GiB ", 3 << 29),
        ("2GB", 2 * 10**9),
        ("3kb", 3000),
        ("1TiB", 1 << 40),
        ("1TB", 10**12),
        ("7B", 7),
        ("1KiB", 1024),
        ("8388607TiB", 8388607 << 40),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1MiB", "1 QiB", "1e9", "1,5GiB", "GiB 1", "0x10", "nan", "8388608TiB", "9" * 400 + "GiB"]
)
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("cuda:0,1", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0"]),
        ("cuda:3", ["cuda:3"]),
        ("cpu:2", ["cpu:0", "cpu:1"]),
        ("cpu", ["cpu:0"]),
        ("CPU:1", ["cpu:0"]),
        (" virtual:3 ", ["virtual:0", "virtual:1", "virtual:2"]),
    ],
)
def test_devices_are_indices_of_cuda_and_counts_of_the_rest(text: str, ids: list[str]) -> None:
    found = devices(text)
    assert found is not None
    assert [device.device_id for device in found] == ids


def test_auto_leaves_the_devices_open() -> None:
    assert devices("auto") is None
    assert devices(" AUTO ") is None


def test_as_many_devices_as_the_limit_and_no_more() -> None:
    found = devices("virtual:4096")
    assert found is not None
    assert len(found) == 4096
    with pytest.raises(ConfigError, match="a count of 1 to 4096"):
        devices("virtual:4097")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected auto, cuda:0,1, cpu:2 or virtual:64"),
        ("gpu:0", "expected auto"),
        ("cpu:", "expected auto"),
        ("cpu:x", "'x' is no number"),
        ("cuda:0,,1", "is no number"),
        ("cuda:0,0", "every index once"),
        ("cuda:-1", "none negative"),
        ("cpu:0", "a count of 1 to 4096"),
        ("cpu:-3", "a count of 1 to 4096"),
        ("cpu:1,2", "a count of 1 to 4096"),
        ("cuda:" + "9" * 5000, "is no number"),
    ],
)
def test_devices_that_cannot_be_had_are_refused_with_their_text(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        devices(text)
    assert str(caught.value).startswith(f"devices is '{text}': ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("VRAM", "much", "VRAM: 'much' is no size"),
        ("RAM", "1 XB", "RAM: '1 XB' is no size"),
        ("DRAIN", "soon", "DRAIN is 'soon': expected seconds of at least 0"),
        ("DRAIN", "-1", "DRAIN is '-1': expected seconds of at least 0"),
        ("DRAIN", "inf", "DRAIN is 'inf'"),
        ("DRAIN", "nan", "DRAIN is 'nan'"),
        ("DEVICES", "tpu", "devices is 'tpu'"),
    ],
)
def test_a_variable_that_cannot_be_obeyed_is_named_with_its_value(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environment={f"VRAMBROKER_{variable}": text})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("commands = ", "Invalid value"),
        ("colour = 1", "colour"),
        ("admin = 1", "admin"),
        ("vram = true", "vram"),
        ("ram = -5", "'-5' is no size"),
        ("heartbeat_ms = 1.5", "heartbeat_ms"),
        ("heartbeat_ms = 0", "heartbeat_ms is 0: expected at least 1"),
        ("silence_ms = -1", "silence_ms is -1: expected at least 1"),
        ("telemetry_ms = 0", "telemetry_ms is 0: expected at least 1"),
        ('models = "a"', "models"),
        ('[limits]\nsteps = "many"', "limits.steps"),
        ("[limits]\nstepps = 1", "stepps"),
        ("[limits]\nsteps = 0", "limits.steps is 0: expected at least 1"),
        ("[limits]\nwarmup_runs = -1", "limits.warmup_runs is -1: expected at least 0"),
    ],
)
def test_a_line_that_cannot_be_obeyed_is_named(text: str, message: str, toml: Toml) -> None:
    with pytest.raises(ConfigError) as caught:
        load(toml(text), environment={})
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        load(tmp_path / "absent.toml", environment={})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'web = "\xff"')
    with pytest.raises(ConfigError, match=r"binary\.toml: "):
        load(binary, environment={})


def test_settings_do_not_change() -> None:
    settings = load(environment={})
    assert isinstance(settings, Settings)
    with pytest.raises(AttributeError):
        settings.admin = True  # type: ignore[misc]


def test_what_is_preloaded_may_be_a_table_in_the_file(toml: Toml) -> None:
    settings = load(toml('preload = ["a", { model = "b", pin = true, precision = "Float16", keep_alive = 60 }]'), {})
    second = Preload(model="b", pin=True, precision=ModelPrecision.Float16, keep_alive=60.0)
    assert settings.preload == (Preload(model="a"), second)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('preload = [""]', "it names no model"),
        ('preload = ["a", { model = "b", keep_alive = -2 }]', "keep_alive of b is -2"),
        ('preload = [{ model = "b", keep_alive = inf }]', "keep_alive of b is inf"),
        ('preload = [{ model = "b", pinned = true }]', "pinned"),
        ("preload = [{ pin = true }]", "model"),
    ],
)
def test_what_cannot_be_preloaded_is_named(line: str, said: str, toml: Toml) -> None:
    with pytest.raises(ConfigError, match=said):
        load(toml(line), {})


def test_threads_are_the_files_then_the_operators_then_shared_out(toml: Toml) -> None:
    assert load(environment={}).worker_threads == 0
    assert load(environment={"OMP_NUM_THREADS": "6"}).worker_threads == 6
    assert load(environment={"OMP_NUM_THREADS": "4,2"}).worker_threads == 0
    assert load(toml("worker_threads = 3"), {"OMP_NUM_THREADS": "6"}).worker_threads == 3
    with pytest.raises(ConfigError, match="worker_threads is 0"):
        load(toml("worker_threads = 0"), {})


def test_devices_of_several_kinds_stand_side_by_side() -> None:
    assert devices("cpu:2; virtual:1") == (
        *cpus(2),
        DeviceRequest(kind=DeviceKind.VIRTUAL, index=0),
    )
    for text in ("cpu:2;cpu:1", "cpu:1;", "cpu:1;auto", "cuda:0;cuda:0"):
        with pytest.raises(ConfigError, match="devices is"):
            devices(text)


def test_results_are_kept_for_ten_minutes_or_as_the_file_says(toml: Toml) -> None:
    assert load(environment={}).results_seconds == 600.0
    assert load(toml("results_seconds = 1"), {}).results_seconds == 1.0
    for text in ("0.5", "inf", "-1"):
        with pytest.raises(ConfigError, match="results_seconds is"):
            load(toml(f"results_seconds = {text}"), {})
