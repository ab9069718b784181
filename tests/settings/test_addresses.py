"""An address is one or is refused with what was probably meant; a bound one is reached where its host can be."""

from __future__ import annotations

import pytest

from settings.addresses import checked, checked_web, is_fixed, reachable

GOOD = (
    "tcp://127.0.0.1:5555",
    "tcp://127.0.0.1:0",
    "tcp://*:*",
    "tcp://[::1]:65535",
    "tcp://gpu-1.lan:1",
    "ipc:///run/b.sock",
    "ipc://@abstract",
)


@pytest.mark.parametrize("address", GOOD)
def test_an_address_is_taken_as_it_is(address: str) -> None:
    assert checked(f" {address} ", default_port=5555) == address


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("tcp://127.0.0.1", "it has no port; did you mean tcp://127.0.0.1:5555?"),
        ("tcp://127.0.0.1:", "it has no port; did you mean tcp://127.0.0.1:5555?"),
        ("gpu-1", "it has no port; did you mean tcp://gpu-1:5555?"),
        ("localhost:7000", "did you mean tcp://localhost:7000?"),
        ("tcp://localhost:7000/", "did you mean tcp://localhost:7000?"),
        ("[::1]:7000", "did you mean tcp://[::1]:7000?"),
    ],
)
def test_one_that_lacks_a_part_is_answered_with_the_whole(address: str, meant: str) -> None:
    with pytest.raises(ValueError) as refused:
        checked(address, default_port=5555)
    assert str(refused.value).endswith(meant)


@pytest.mark.parametrize(
    "address", ["", "http://a:1", "udp://a:1", "tcp://a:65536", "tcp://a:b", "tcp://:5555", "ipc://"]
)
def test_anything_else_is_refused_without_a_guess(address: str) -> None:
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT or ipc://PATH") as refused:
        checked(address, default_port=5555)
    assert "did you mean" not in str(refused.value)


def test_a_web_address_has_no_scheme() -> None:
    assert checked_web("127.0.0.1:9555", default_port=9555) == "127.0.0.1:9555"
    with pytest.raises(ValueError, match=r"did you mean 127.0.0.1:9555\?"):
        checked_web("127.0.0.1", default_port=9555)
    with pytest.raises(ValueError, match=r"did you mean 127.0.0.1:80\?"):
        checked_web("http://127.0.0.1:80/", default_port=9555)


def test_an_address_that_is_bound_anywhere_is_reached_beside_one_that_is_known() -> None:
    assert reachable("tcp://0.0.0.0:6", beside="tcp://gpu-1:5") == "tcp://gpu-1:6"
    assert reachable("tcp://[::]:6", beside="tcp://[fe80::1]:5") == "tcp://[fe80::1]:6"
    assert reachable("tcp://*:6") == reachable("tcp://*:6", beside="tcp://*:5") == "tcp://127.0.0.1:6"
    assert reachable("tcp://10.0.0.1:6", beside="tcp://gpu-1:5") == "tcp://10.0.0.1:6"
    assert reachable("ipc:///run/e", beside="tcp://gpu-1:5") == "ipc:///run/e"


@pytest.mark.parametrize(
    ("address", "fixed"), [("tcp://a:0", False), ("tcp://a:*", False), ("", False), ("tcp://a:10", True)]
)
def test_any_port_fixes_nothing(address: str, fixed: bool) -> None:
    assert is_fixed(address) is fixed
