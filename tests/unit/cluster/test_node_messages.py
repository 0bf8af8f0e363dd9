"""What nodes tell each other arrives as it was sent; ids are only routed if their node made them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.cluster.ids import is_signed, make_id, new_key, new_name, read_id
from rtcflow.cluster.members import PROTOCOL, SILENCE, Members, Report, read_report
from rtcflow.cluster.messages import pack, pack_event, pack_scope, unpack, unpack_event, unpack_scope
from rtcflow.cluster.policy import Load

LATIN = st.text(st.characters(max_codepoint=255))
HEADERS = st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=3)
HEADS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9) | st.none(), max_size=4)


@given(HEADS, st.binary(max_size=99))
def test_messages(head, data):
    assert unpack(pack(head, data)) == (head, data)


@given(st.binary(max_size=99))
def test_junk_is_a_value_error_and_nothing_else(data):
    for read in (unpack, read_report):
        with suppress(ValueError):
            read(data)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["http.response.body", "websocket.send"])},
        optional={"body": st.binary(max_size=9), "text": st.text(max_size=9), "more_body": st.booleans()},
    )
)
def test_events(event):
    head, data = pack_event(event)
    assert unpack_event(*unpack(pack(head, data))) == event


@given(HEADERS, st.binary(max_size=20), st.text(max_size=20), st.sampled_from(["http", "websocket"]))
def test_scopes(headers, query, path, kind):
    scope = {
        "type": kind, "method": "POST", "path": path, "headers": headers, "query_string": query,
        "path_params": {"a": 1}, "client": ("10.0.0.1", 5), "state": object(), "app": object(),
    }  # fmt: skip
    head, _ = unpack(pack(pack_scope(scope)))
    found = unpack_scope(head)
    kept = ("type", "method", "path", "headers", "query_string", "client")
    assert {name: found[name] for name in kept} == {name: scope[name] for name in kept}
    assert found["path_params"] == {"a": "1"}


def report(node, *, left=False, keys=(), calls=0):
    load = Load(calls, 5, draining=True, release=(1, 2), lag=0.5)
    return Report(node, new_key(), PROTOCOL, "stream", "/a /b", 1e9, load, left=left, keys=dict(keys))


def test_reports():
    sent = replace(report("a", keys={"b": b"key"}), held={"call.1": "b"}, freed=("call.2", "slot.3"))
    assert read_report(sent.to_bytes()) == sent


@given(st.text(max_size=60))
def test_ids_that_callers_choose_have_another_form(text):
    name, key = new_name(), new_key()
    own = read_id(make_id(name, key))
    assert own is not None
    assert own.node == name
    assert is_signed(own, key)
    assert not is_signed(own, new_key())
    found = read_id(text)
    assert found is None or not is_signed(found, key)


@pytest.mark.parametrize("place", range(3))
def test_an_id_that_was_changed_is_not_routed(place):
    name, key = new_name(), new_key()
    parts = make_id(name, key).split(".")
    parts[place] = ("A" if parts[place][0] != "A" else "B") + parts[place][1:]
    found = read_id(".".join(parts))
    assert found is None or not is_signed(found, key)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("letter", [" ", "*", "\n", "é", "\ud800"])
def test_an_id_with_other_letters_is_not_one_of_ours(place, letter):
    """Its node becomes a part of a subject, where some letters have a meaning for NATS."""
    parts = make_id(new_name(), new_key()).split(".")
    parts[place] = parts[place][:-1] + letter
    assert read_id(".".join(parts)) is None


def test_members():
    """A node that is silent, has left or has died is no member; its key is still known, and told to new nodes."""
    members = Members()
    for node in "abc":
        members.heard(report(node), 0.0)
    members.heard(report("a"), SILENCE)
    assert sorted(members.expire(SILENCE + 0.1)) == ["b", "c"]
    members.heard(report("b", keys={"z": b"of another one"}), SILENCE)
    members.heard(report("b", left=True), SILENCE)
    members.remove("a")
    assert not [node for node in "abcz" if node in members]
    assert all(members.key(node) for node in "abcz")
    assert set(members.latest_keys()) == set("abcz")
    assert members.key("z") == b"of another one"
