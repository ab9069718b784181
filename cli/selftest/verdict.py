"""The self-test as an operator sees it: each check as it ends, and the verdict."""

from __future__ import annotations

import time
from typing import NoReturn

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from broker.devices import find_devices
from cli.selftest import checks
from cli.selftest.checks import Finding
from cli.selftest.private import PrivateBroker, PrivateError
from cli.session import FAILED
from cli.streams import write_json
from cli.terminal import Terminal
from cli.units import duration
from protocol.records import Record
from settings.config import load as load_settings
from settings.file import ConfigError

SCHEMA = 1
KINDS = ("cuda", "cpu", "virtual")


class Verdict(Record, frozen=True, kw_only=True):
    """What `--json` prints: `schema` grows where a field changes its meaning."""

    schema: int = SCHEMA
    device: str
    passed: bool
    seconds: float
    findings: list[Finding]


def selftest(device: str, *, as_json: bool) -> NoReturn:
    """Prove one device in a broker of its own; ends the process, with 1 where a check failed."""
    device = _chosen(device)
    began, out, err = time.monotonic(), Terminal(), Terminal(stderr=True)
    findings: list[Finding] = []
    try:
        if not as_json:
            out.print(f"a broker of its own with {device}: starting")
        with PrivateBroker(device) as broker:
            for _, carry_out in checks.run(broker):
                findings.append(carry_out())
                if not as_json:
                    out.print(_line(findings[-1]))
    except PrivateError as error:
        findings.append(Finding(check="start", passed=False, text=str(error), ms=0.0))
        if not as_json:
            err.print(_line(findings[-1]))
    passed = all(one.passed for one in findings)
    seconds = time.monotonic() - began
    if as_json:
        verdict = Verdict(device=device, passed=passed, seconds=seconds, findings=findings)
        write_json(msgspec.json.encode(verdict))
    else:
        out.print(_summary(device, findings, seconds))
    raise typer.Exit(0 if passed else FAILED)


def _chosen(device: str) -> str:
    """The device that is meant: without a word the first CUDA device, where there is none a cpu device."""
    if not device:
        try:
            return next(iter(found.request.device_id for found in find_devices(load_settings())), "cpu")
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None
    if device.partition(":")[0] not in KINDS:
        raise typer.BadParameter(f"--device is {device!r}: expected cuda:0, cpu or virtual")
    return device


def _line(one: Finding) -> Table:
    """One check; what is long goes on beneath itself."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=4)
    row.add_column(width=max(map(len, checks.CHECKS)))
    row.add_column(overflow="fold")
    mark = Text("pass" if one.passed else "FAIL", style="green" if one.passed else "bold red")
    row.add_row(mark, Text(one.check, style="bold"), Text.assemble(one.text, (f"  {duration(one.ms)}", "dim")))
    return row


def _summary(device: str, findings: list[Finding], seconds: float) -> Text:
    failed = [one.check for one in findings if not one.passed]
    took = duration(seconds * 1000)
    if failed:
        return Text(f"\n{device} failed: {', '.join(failed)} ({len(findings)} checks, {took})", style="bold red")
    return Text(f"\n{device} passed: {len(findings)} checks in {took}", style="bold green")
