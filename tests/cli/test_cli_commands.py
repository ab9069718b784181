"""What `vrambroker` prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import replies
from PIL import Image
from router import Received, Router

from cli.main import serve_arguments
from protocol.codec import action_of
from protocol.commands import (
    BenchmarkModel,
    Cancel,
    Explain,
    Generate,
    LoadModel,
    OptimizeModel,
    UnloadModel,
    ValidateModel,
)
from protocol.enums import (
    BenchmarkType,
    CancelOutcome,
    DeviceState,
    LoadPriority,
    ModelOptimizationTarget,
    ModelPrecision,
    OptimizationLevel,
    ValidationLevel,
)
from protocol.replies import CancelReply, ExplainReply, ValidateModelReply
from protocol.version import VERSION

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = (
    ("status",),
    ("ps",),
    ("devices",),
    ("models",),
    ("info", "tiny-sd15"),
    ("scan",),
    ("load", "tiny-sd15"),
    ("unload", "tiny-sd15"),
    ("validate", "tiny-sd15"),
    ("benchmark", "tiny-sd15"),
    ("optimize", "tiny-sd15"),
    ("pin", "tiny-sd15"),
    ("cancel", "r1"),
    ("generate", "tiny-sd15", "a [fox]"),
)

NAMES = {words[0] for words in COMMANDS} | {"serve", "unpin", "events", "schema"}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_json_is_the_only_thing_on_standard_output(broker: Router, vrambroker: Run, words: tuple[str, ...]) -> None:
    done = vrambroker("-e", broker.endpoint, *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["success"] is True


def test_a_refusal_exits_1_and_names_code_message_and_recovery(vrambroker: Run) -> None:
    with Router(refuse_loads) as router:
        done = vrambroker("-e", router.endpoint, "load", "m")
        spoken = vrambroker("-e", router.endpoint, "load", "m", "--json")
    assert (done.returncode, spoken.returncode) == (1, 1)
    assert done.stdout == "" and "Traceback" not in done.stderr
    for part in ("INSUFFICIENT_MEMORY", "needs 9 GiB", "unload [tiny]", "vrambroker unload tiny"):
        assert part in done.stderr
    assert json.loads(spoken.stdout)["error"]["code"] == "INSUFFICIENT_MEMORY"


def refuse_loads(received: Received) -> None:
    action = action_of(received.command)
    received.send(replies.refusal(action) if action == "load_model" else replies.of_action(action))


def test_mistakes_of_usage_exit_2(vrambroker: Run) -> None:
    for words in (
        ("nonsense",),
        ("load",),
        ("load", "m", "--precision", "Float12"),
        ("load", "m", "--keep-alive", "soon"),
        ("generate", "m", "p", "--size", "big"),
        ("serve", "--port", "1"),
        ("schema", "nothing"),
        ("-e", "nowhere", "ps"),
    ):
        done = vrambroker(*words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


def test_no_broker_exits_3(vrambroker: Run) -> None:
    with Router(lambda received: None) as router:
        endpoint = router.endpoint
    done = vrambroker("-e", endpoint, "ps", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no broker is connected" in " ".join(done.stderr.split())


def test_an_endpoint_that_is_none_is_answered_with_the_one_meant(broker: Router, vrambroker: Run) -> None:
    done = vrambroker("-e", "localhost", "ps")
    assert done.returncode == 2
    assert "did you mean tcp://localhost:5555?" in " ".join(done.stderr.split())
    done = vrambroker("-e", broker.endpoint, "events", "--events-endpoint", "localhost")
    assert done.returncode == 2
    assert "did you mean tcp://localhost:5556?" in " ".join(done.stderr.split())


def test_options_become_the_command(broker: Router, vrambroker: Run) -> None:
    words = "--precision float16 --priority high --keep-alive 5m --pin --attention-slicing --set tiles=4 -d cpu:1"
    assert vrambroker("-e", broker.endpoint, "load", "m", *words.split()).returncode == 0
    sent = broker.seen[-1].command
    assert isinstance(sent, LoadModel) and sent.configuration is not None
    assert (sent.priority, sent.keep_alive, sent.pin, sent.device_id) == (LoadPriority.High, 300.0, True, "cpu:1")
    assert sent.configuration.precision is ModelPrecision.Float16
    assert sent.configuration.memory_optimization.enable_attention_slicing
    assert sent.configuration.parameters == {"tiles": 4}


def test_options_of_an_optimisation_become_the_command(broker: Router, vrambroker: Run, tmp_path: Path) -> None:
    words = [
        "memory",
        "--level",
        "maximum",
        "--budget",
        "5",
        "--size",
        "64x128",
        "--steps",
        "3",
        "--prompt",
        "one",
        "--prompt",
        "two",
        "--save",
        "small",
    ]
    done = vrambroker("-e", broker.endpoint, "optimize", "m", *words, "--pictures", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    drawn, sent, again = (received.command for received in broker.seen[-3:])
    assert isinstance(sent, OptimizeModel) and sent.target is ModelOptimizationTarget.Memory
    assert (sent.level, sent.save_optimized, sent.optimized_model_name) == (OptimizationLevel.Maximum, True, "small")
    assert sent.parameters == {"budget_seconds": 5.0, "width": 64, "height": 128, "steps": 3, "prompts": ["one", "two"]}
    for picture in (drawn, again):
        assert isinstance(picture, Generate) and (picture.prompt, picture.seed, picture.width) == ("one", 1, 64)
    (file,) = (tmp_path / "out").iterdir()
    with Image.open(file) as both:
        assert both.size[0] > 2 * both.size[1] - 2
    vrambroker("-e", broker.endpoint, "optimize", "m")
    plain = broker.seen[-1].command
    assert isinstance(plain, OptimizeModel) and not plain.save_optimized and plain.parameters == {}


def test_options_of_a_benchmark_become_the_command(broker: Router, vrambroker: Run) -> None:
    words = (
        "--type stress --size 64x128 --batch 2 --steps 3 --runs 4 --warmup 0 --batches --sizes --seconds 9 --no-save"
    )
    done = vrambroker(
        "-e", broker.endpoint, "benchmark", "m", *words.split(), "--seconds", "9", "--no-save", "--prompt", "a [fox]"
    )
    assert done.returncode == 0, done.stderr
    sent = broker.seen[-1].command
    assert isinstance(sent, BenchmarkModel) and sent.benchmark_type is BenchmarkType.STRESS
    assert (sent.benchmark_runs, sent.warmup_runs, sent.save_results) == (4, 0, False)
    asked = sent.configuration
    assert (asked.input_width, asked.input_height, asked.batch_size, asked.inference_steps) == (64, 128, 2, 3)
    assert asked.test_batch_sizes and asked.test_resolutions
    assert asked.parameters == {"duration_seconds": 9.0, "prompt": "a [fox]"}


def test_a_model_that_is_not_valid_exits_1(broker: Router, vrambroker: Run) -> None:
    done = vrambroker("-e", broker.endpoint, "validate", "m", "--level", "comprehensive", "--estimate")
    sent = broker.seen[-1].command
    assert isinstance(sent, ValidateModel) and sent.estimate_performance
    assert sent.validation_level is ValidationLevel.COMPREHENSIVE
    assert done.returncode == 0 and "vrambroker load tiny-sd15 --precision Int8" in done.stdout

    def spoil(received: Received) -> None:
        reply = replies.of_action(action_of(received.command))
        received.send(
            msgspec.structs.replace(reply, is_valid=False) if isinstance(reply, ValidateModelReply) else reply
        )

    with Router(spoil) as router:
        done = vrambroker("-e", router.endpoint, "validate", "--path", "/models/x.safetensors")
    assert done.returncode == 1 and "not valid" in done.stdout and "error" not in done.stderr


def test_no_options_send_no_configuration(broker: Router, vrambroker: Run) -> None:
    vrambroker("-e", broker.endpoint, "load", "m")
    sent = broker.seen[-1].command
    assert isinstance(sent, LoadModel) and sent.configuration is None
    vrambroker("-e", broker.endpoint, "unload", "m", "--force", "--clear-cache")
    sent = broker.seen[-1].command
    assert isinstance(sent, UnloadModel) and sent.force and sent.clear_cache


def test_generated_images_are_written_and_never_replaced(broker: Router, vrambroker: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny-sd15-7.png").write_bytes(b"precious")
    (tmp_path / "from.png").write_bytes(replies.PNG)
    words = "--size 64x32 --steps 4 --seed 7 --lora style:0.5 --image from.png --mask from.png --strength 0.5 -o out"
    done = vrambroker("-e", broker.endpoint, "generate", "tiny-sd15", "a [fox]", *words.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tiny-sd15-7.png").read_bytes() == b"precious"
    assert (tmp_path / "out" / "tiny-sd15-7.2.png").read_bytes() == replies.PNG
    assert "tiny-sd15-7.2.png" in done.stdout
    sent = broker.seen[-1].command
    assert isinstance(sent, Generate) and sent.loras is not None
    assert (sent.width, sent.height, sent.prompt, sent.loras[0].scale) == (64, 32, "a [fox]", 0.5)
    assert broker.seen[-1].attachments == [replies.PNG, replies.PNG]
    assert [named.name for named in sent.attachments] == ["image", "mask"]
    alone = vrambroker("-e", broker.endpoint, "generate", "tiny-sd15", "a fox", "--mask", "from.png")
    assert alone.returncode == 2 and "--mask needs --image" in alone.stderr


def test_status_wait_is_0_once_every_worker_is_ready(vrambroker: Run) -> None:
    asked: list[str] = []

    def answer(received: Received) -> None:
        action = action_of(received.command)
        asked.append(action)
        late = asked.count("list_devices") < 3
        states = (DeviceState.READY, DeviceState.STARTING if late else DeviceState.BUSY)
        received.send(replies.devices(*states) if action == "list_devices" else replies.of_action(action))

    with Router(answer) as router:
        assert vrambroker("-e", router.endpoint, "status", "--wait", "30").returncode == 0
    assert asked.count("list_devices") == 3


def test_status_wait_fails_when_a_worker_is_not_ready_in_time(vrambroker: Run) -> None:
    def answer(received: Received) -> None:
        action = action_of(received.command)
        starting = replies.devices(DeviceState.STARTING)
        received.send(starting if action == "list_devices" else replies.of_action(action))

    with Router(answer) as router:
        done = vrambroker("-e", router.endpoint, "status", "--wait", "0.2", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["success"] is True
    assert "not every worker was ready" in done.stderr


def interruptible(words: list[str]) -> subprocess.Popen[str]:
    """A process that hears SIGINT, also where the tests themselves run in a background that ignores it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupting_a_generation_cancels_it_without_a_traceback(tmp_path: Path) -> None:
    begun: list[Received] = []

    def answer(received: Received) -> None:
        action = action_of(received.command)
        if action == "generate":
            begun.append(received)
        else:
            received.send(replies.of_action(action))

    with Router(answer) as router:
        words = [sys.executable, "-P", "-m", "cli", "-e", router.endpoint, "generate", "m", "p", "-o", str(tmp_path)]
        with interruptible(words) as process:
            while not begun:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert action_of(router.seen[-1].command) == "cancel"


def test_schema_needs_no_broker_and_holds_what_it_refers_to(vrambroker: Run) -> None:
    whole = json.loads(vrambroker("schema").stdout)
    part = json.loads(vrambroker("schema", "load_model").stdout)
    assert "generate" in whole["commands"]
    assert part["commands"]["$ref"] == "#/$defs/LoadModel"
    assert {"LoadModel", "LoadModelReply", "ModelLoadConfiguration"} <= set(part["$defs"]) < set(whole["$defs"])


def test_serve_is_handed_over_before_typer_is_imported() -> None:
    assert serve_arguments(["serve"]) == (True, None)
    assert serve_arguments(["serve", "--config", "a.toml"]) == (True, Path("a.toml"))
    assert serve_arguments(["serve", "--config=a.toml"]) == (True, Path("a.toml"))
    for words in (["serve", "--help"], ["serve", "--config"], ["serve", "x"], ["ps"], []):
        assert serve_arguments(words) == (False, None)
    loaded = "import sys, cli.main; print([m for m in ('typer', 'rich', 'torch', 'zmq', 'client') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_every_command(vrambroker: Run) -> None:
    shown = vrambroker("--help").stdout
    for name in NAMES:
        assert f"  {name} " in shown


def test_json_is_utf8_and_text_what_can_be_shown_whatever_the_locale(broker: Router, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "VRAMBROKER_RUNTIME": str(tmp_path),
        "PYTHONIOENCODING": "ascii",
    }
    for words in (("models", "--json"), ("models",), ("ps",)):
        command = [sys.executable, "-P", "-m", "cli", "--endpoint", broker.endpoint, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        if "--json" in words:
            assert json.loads(done.stdout.decode())


def test_closed_standard_output_is_no_traceback(broker: Router, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-P", "-m", "cli", "--endpoint", broker.endpoint, "ps"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_edit_sends_what_was_said_and_null_for_a_dash(broker: Router, vrambroker: Run) -> None:
    words = ["--name", "New", "--author", "-", "--rating", "4", "--tag", "a", "--tag", "b", "--set", "mood=calm"]
    done = vrambroker("-e", broker.endpoint, "edit", "tiny-sd15", *words, "--revision", "2", "--write-header")
    assert done.returncode == 0, done.stderr
    assert "name, rating of tiny-sd15" in done.stdout
    sent = next(received.command for received in broker.seen if action_of(received.command) == "update_metadata")
    assert (sent.revision, sent.write_header) == (2, True)
    assert sent.metadata == {
        "name": "New",
        "author": None,
        "rating": 4.0,
        "tags": ["a", "b"],
        "custom": {"mood": "calm"},
    }
    assert vrambroker("-e", broker.endpoint, "edit", "tiny-sd15").returncode == 2
    assert vrambroker("-e", broker.endpoint, "edit", "tiny-sd15", "--rating", "many").returncode == 2


def test_register_and_unregister_say_what_became_of_the_file(broker: Router, vrambroker: Run) -> None:
    done = vrambroker("-e", broker.endpoint, "register", "/models/a.safetensors", "--id", "a", "--type", "SDXL")
    assert (done.returncode, "registered" in done.stdout) == (0, True), done.stderr
    sent = next(received.command for received in broker.seen if action_of(received.command) == "register_model")
    assert (sent.model_path, sent.model_id, sent.model_type) == ("/models/a.safetensors", "a", "SDXL")
    done = vrambroker("-e", broker.endpoint, "unregister", "tiny-sd15", columns=120)
    assert (done.returncode, "passed over by scans" in done.stdout) == (0, True), done.stderr


def test_search_sends_its_filters_and_shows_where_it_matched(broker: Router, vrambroker: Run) -> None:
    words = ["--in", "name", "--type", "sd15", "--tag", "a", "--min-rating", "3", "--max-memory", "8GiB", "--on", "gpu"]
    done = vrambroker("-e", broker.endpoint, "search", "sd", *words, columns=160)
    assert done.returncode == 0, done.stderr
    assert "Tiny [SD]" in done.stdout and "1 found in 1.2 ms" in done.stdout and "<em>" not in done.stdout
    sent = next(received.command for received in broker.seen if action_of(received.command) == "search_models")
    assert (sent.query, sent.tags, sent.min_rating, sent.max_memory_bytes) == ("sd", ["a"], 3.0, 8 << 30)
    assert [field.value for field in sent.search_fields] == ["Name"]
    assert [kind.value for kind in (*sent.model_types, *sent.compatible_devices)] == ["SD15", "GPU"]
    assert vrambroker("-e", broker.endpoint, "search", "--max-memory", "much").returncode == 2


def test_what_nobody_knows_exits_1(vrambroker: Run) -> None:
    def unknown(received: Received) -> None:
        command = received.command
        if isinstance(command, Cancel):
            received.send(
                CancelReply(
                    request_id=None,
                    action="cancel",
                    target_request_id=command.target_request_id,
                    outcome=CancelOutcome.UNKNOWN,
                )
            )
        elif isinstance(command, Explain):
            text = "no decision is known under this id"
            received.send(
                ExplainReply(request_id=None, action="explain", target_request_id="nope", candidates=[], message=text)
            )
        else:
            received.send(replies.of_action(action_of(command)))

    with Router(unknown) as router:
        for words in (("cancel", "nope"), ("explain", "nope")):
            done = vrambroker("-e", router.endpoint, *words)
            assert (done.returncode, done.stderr) == (1, "") and done.stdout.strip(), words
            assert vrambroker("-e", router.endpoint, *words, "--json").returncode == 1


def test_the_version_is_shown_without_a_broker(vrambroker: Run) -> None:
    done = vrambroker("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"vrambroker {VERSION}")


def test_a_watch_that_is_piped_prints_frame_after_frame(broker: Router) -> None:
    command = [sys.executable, "-P", "-m", "cli.main", "-e", broker.endpoint, "ps", "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = 0
        for line in watching.stdout:
            seen += "cpu:0" in line
            if seen == 3:
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130
