"""Every header between the broker and its workers arrives as it was sent, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
import wire_strategies as wire
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protocol import link

FROM_WORKER = link.FromWorker.__args__
TO_WORKER = link.ToWorker.__args__
QUICK = settings(
    max_examples=8,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("cls", FROM_WORKER)
@QUICK
@given(data=st.data())
def test_what_a_worker_sends_arrives_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(wire.structs(cls))
    assert link.decode_from_worker(link.encode(message)) == message


@pytest.mark.parametrize("cls", TO_WORKER)
@QUICK
@given(data=st.data())
def test_what_the_broker_sends_arrives_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(wire.structs(cls))
    assert link.decode_to_worker(link.encode(message)) == message


@QUICK
@given(wire.structs(link.WorkerSpec), wire.structs(link.CatalogSpec))
def test_a_childs_spec_is_one_line_of_text_and_arrives_as_it_was(
    worker: link.WorkerSpec, catalog: link.CatalogSpec
) -> None:
    assert link.decode_worker_spec(link.encode_spec(worker)) == worker
    assert link.decode_catalog_spec(link.encode_spec(catalog)) == catalog
    assert "\n" not in link.encode_spec(worker)


def test_each_direction_knows_its_own_messages_alone() -> None:
    stop = link.encode(link.Stop(drain_seconds=1.0))
    beat = link.encode(link.Beat(progress_count=1))
    with pytest.raises(msgspec.DecodeError):
        link.decode_from_worker(stop)
    with pytest.raises(msgspec.DecodeError):
        link.decode_to_worker(beat)


@settings(QUICK, max_examples=500)
@given(st.binary(max_size=60))
def test_garbage_on_the_link_raises_what_is_promised(frame: bytes) -> None:
    for decode in (link.decode_from_worker, link.decode_to_worker):
        with contextlib.suppress(msgspec.DecodeError, ValueError):
            decode(frame)


def test_the_tags_of_the_link_are_distinct() -> None:
    tags = [cls.__struct_config__.tag for cls in (*FROM_WORKER, *TO_WORKER)]
    assert len(set(tags)) == len(tags)
