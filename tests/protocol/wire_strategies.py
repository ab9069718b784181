"""Hypothesis strategies for anything that travels, derived from the structs themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec import inspect as mi

from protocol import replies as r
from protocol.actions import ACTIONS
from protocol.enums import ReplyState

INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=6)
DATETIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)


def values(kind: mi.Type) -> st.SearchStrategy[Any]:
    """Values of a type as msgspec describes it."""
    match kind:
        case mi.AnyType():
            return JSON_VALUES
        case mi.UnionType():
            return st.one_of(*(values(member) for member in kind.types))
        case mi.NoneType():
            return st.none()
        case mi.StructType():
            return structs(kind.cls)
        case mi.EnumType():
            return st.sampled_from(list(kind.cls))
        case mi.IntType():
            return INTEGERS
        case mi.FloatType():
            return FLOATS
        case mi.BoolType() | mi.BytesType():
            return st.booleans() if isinstance(kind, mi.BoolType) else st.binary(max_size=8)
        case mi.StrType():
            return TEXTS
        case mi.DateTimeType():
            return DATETIMES
        case mi.ListType():
            return st.lists(values(kind.item_type), max_size=1)
        case mi.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=1)
    raise TypeError(f"no strategy for {kind}")


def fields(cls: type[msgspec.Struct]) -> tuple[mi.Field, ...]:
    """The fields of a struct."""
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return info.fields


@cache
def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any instance of a struct; a field that may be absent sometimes is."""
    filled = {
        field.name: st.just(UNSET) | values(field.type) if field.default is UNSET else values(field.type)
        for field in fields(cls)
    }
    return st.deferred(lambda: st.builds(cls, **filled))


def _consistent(reply: Any) -> Any:
    """The number and the record of a load say the same: the number is that of the record."""
    if isinstance(reply, r.LoadModelReply):
        return msgspec.structs.replace(reply, memory_usage=reply.memory.model_memory_bytes)
    return reply


@cache
def final_replies(action: str) -> st.SearchStrategy[Any]:
    """Any completed reply of an action."""
    cls = ACTIONS[action].reply
    fixed = {"action": st.just(action), "state": st.just(ReplyState.COMPLETED)}
    if cls is r.GetResultReply:
        nested = st.sampled_from(["load_model", "ping", "list_models", "cancel"]).flatmap(final_replies)
        fixed["result"] = st.none() | nested | failed_replies()
    return _with(cls, fixed).map(_consistent)


def failed_replies() -> st.SearchStrategy[Any]:
    """Any reply of a command that failed or was cancelled."""
    states = st.sampled_from([ReplyState.FAILED, ReplyState.CANCELLED])
    return _with(r.FailedReply, {"action": st.sampled_from([*ACTIONS, ""]), "state": states})


def partial_replies() -> st.SearchStrategy[Any]:
    """Any `accepted` or `progress` reply."""
    actions = st.sampled_from(list(ACTIONS))
    return st.one_of(
        _with(r.AcceptedReply, {"action": actions, "state": st.just(ReplyState.ACCEPTED)}),
        _with(r.ProgressReply, {"action": actions, "state": st.just(ReplyState.PROGRESS)}),
    )


def _with(cls: type[Any], fixed: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    def build(reply: Any, **chosen: Any) -> Any:
        return msgspec.structs.replace(reply, **chosen)

    return st.builds(build, structs(cls), **fixed)
