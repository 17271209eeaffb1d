"""Subjects, tokens, packets between pods, records in Redis, Lua: what is not JSON alone."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError

from daisi_ws.adapters.grpc_options import unwrap, wrap
from daisi_ws.adapters.http_request import _is_same_host
from daisi_ws.adapters.kills_redis import _kill
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import PushEventRequest
from daisi_ws.adapters.pods_redis import PodsRedis, _decode_pod, decode_reader
from daisi_ws.adapters.push_event import payload_of, subject_of
from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.app.ports import Acquired, Held, PodRecord, ReaderRecord
from daisi_ws.domain import packets, subjects
from daisi_ws.domain.consumer import AckSubject, parse_ack_subject
from daisi_ws.domain.errors import BadRequest, InvalidToken, Unavailable
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.ids import ALPHABET
from daisi_ws.domain.packets import Batch, Item, MalformedPacket
from tests.fuzz.json_targets import TooDeep, reference
from tests.fuzz.target import Target
from tests.models.direct_link import DirectLink
from tests.models.sim_redis import RedisServer

_SUBJECT = re.compile(
    rf"websocket\.{ALPHABET}\.{ALPHABET}\.(chats|agents|messages\.{ALPHABET})", re.ASCII
)
_ROUTE = re.compile(rf"route:{ALPHABET}:{ALPHABET}:(chats|messages:{ALPHABET})".encode())
_NUMBERS = r"\.".join([r"(\d{1,19})"] * 5)
_ACK = re.compile(
    rf"\$JS\.ACK\.(?:[^.]*\.[^.]*\.{_NUMBERS}|(?:[^.]*\.){{4}}{_NUMBERS}(?:\.[^.]*)*)",
    re.ASCII,
)


def subject(data: bytes) -> bool:
    """An address exactly for what the grammar says; its route keys lead back to it."""
    text = data.decode(errors="surrogateescape")
    subjects.parse.cache_clear()
    address = subjects.parse(text)
    assert (address is not None) == (_SUBJECT.fullmatch(text) is not None)
    if address is None:
        return False
    keys = [subjects.route_key(interest) for interest in address.interests]
    assert [subjects.interest_of(key) for key in keys] == list(address.interests)
    assert len(set(keys)) == len(keys)
    assert not any(mark in key for key in keys for mark in "{}\r\n >")
    return True


def route_key(data: bytes) -> bool:
    """Any key of Redis is a route's, or none."""
    found = subjects.interest_of(data.decode(errors="replace"))
    assert (found is not None) or not _ROUTE.fullmatch(data)
    if found is not None and subjects.parse(found) is not None:
        assert subjects.route_key(found) == data.decode()
    return found is not None


def ack_subject(data: bytes) -> bool:
    """The numbers of a reply subject of JetStream, or None where it is none."""
    text = data.decode(errors="surrogateescape")
    told = parse_ack_subject(text)
    is_one = _ACK.fullmatch(text)
    assert (told is not None) == (is_one is not None)
    if told is None or is_one is None:
        return False
    delivered, seq, _, stored_ns, pending = (int(n) for n in is_one.groups() if n is not None)
    assert told == AckSubject(delivered, seq, stored_ns, pending)
    return True


# -- tokens ---------------------------------------------------------------------------------------

_KEY = "42" * 32
_codec = AesGcmTokenCodec(_KEY)
_CONTENT = {"company_id": "acme", "agent_id": "bot", "user_id": "ann", "expires_at": "2030"}
_TOKENS = [_codec.encode(_CONTENT) for _ in range(3)]
_RIGHT = {token.rstrip("=") for token in _TOKENS}


def token(data: bytes) -> bool:
    """Only what was issued is accepted, in its one spelling, padding or not."""
    text = data.decode("latin-1")
    try:
        content = _codec.decode(text)
    except InvalidToken:
        assert text not in _TOKENS
        return False
    assert text.rstrip("=") in _RIGHT
    assert len(text) - len(text.rstrip("=")) < 3
    assert msgspec.json.decode(content) == _CONTENT
    return True


# -- between pods ---------------------------------------------------------------------------------


def packet(data: bytes) -> bool:
    """A packet that says the same when it is written again, or MalformedPacket."""
    understood = False
    for decode in (packets.decode_request, packets.decode_reply):
        try:
            found = decode(data)
        except MalformedPacket:
            continue
        assert decode(packets.encode(found)) == found
        _check_types(found)
        understood = True
    assert unwrap(wrap(data)) == data
    assert isinstance(unwrap(data), bytes)
    return understood


def _check_types(found: object) -> None:
    """Demand that each field is what the struct says."""
    assert msgspec.convert(msgspec.to_builtins(found, builtin_types=(bytes,)), type(found)) == found


def push_event(data: bytes) -> bool:
    """An older pod's event has a subject and a payload that are each other's, or is refused."""
    try:
        request = PushEventRequest.FromString(data)
    except DecodeError:
        return False
    try:
        name, payload = subject_of(request), payload_of(request)
        address = subjects.parse(name)
        assert address is not None
        sent = json.loads(event_text(address, payload, None))["payload"]
    except (BadRequest, NotAnEvent):
        return False
    asked = request.payload
    assert address.company_id == (request.target_company_id or asked.company_id)
    assert address.agent_id == (request.target_agent_id or asked.agent_id)
    assert sent["company_id"] == address.company_id
    assert sent["event_id"] == asked.event_id
    assert sent["row_data"].keys() == asked.row_data.fields.keys()
    assert (address.chat_id or "") in (request.target_chat_id, asked.chat_id)
    return True


# -- Redis ----------------------------------------------------------------------------------------


def records(data: bytes) -> bool:
    """Records of pods and readers, and kills: what they say, or ignored."""
    found = _decode_pod(data)
    try:
        reader = decode_reader(data)
    except Unavailable:
        reader = None
    kill = _kill(b"session_kill:a:b:c", data)
    try:
        told = reference(data.decode(errors="replace"))
    except TooDeep:
        return False
    if found is not None:
        assert (found.pod_id, found.address) == (told["pod_id"], told["address"])
        assert str(found.pid) == told["pid"]
    if reader is not None:
        assert reader.pod_id == told["pod_id"]
        assert str(reader.epoch) == told["epoch"]
    if kill is not None:
        assert (kill.new_pod_id, kill.holder) == (told["new_pod_id"], told.get("holder", ""))
    return any(one is not None for one in (found, reader, kill))


_OWNER = "pod-a-0-1#1"
_LOCK = "session:acme:bot:ann"


_server = RedisServer(lambda: 1_700_000_000.0)
_link = DirectLink(_server)
_locks = LocksRedis(_link)  # type: ignore[arg-type] # of the link two methods
_pods = PodsRedis(_link, "s", lambda: 6.0)  # type: ignore[arg-type] # of the link one method


async def _lua(data: bytes) -> None:
    link, locks, pods = _link, _locks, _pods
    _server.flush()
    lock, _, fence = data.partition(b"|")
    link.put(_LOCK, lock)
    link.put(f"fence:{{{_LOCK}}}", fence)
    first = await locks.acquire(_LOCK, _OWNER, 30)
    if isinstance(first, Held):
        assert first.holder.encode("latin-1") == lock
        assert await locks.renew([(_LOCK, _OWNER, 30)]) == [False]
        await locks.release([(_LOCK, _OWNER)])
        first = await locks.take(_LOCK, first.holder, _OWNER, 30)
        if not lock:
            return
    assert isinstance(first, Acquired)
    again = await locks.acquire(_LOCK, _OWNER, 30)
    assert again == first
    assert await locks.renew([(_LOCK, _OWNER, 30)]) == [True]
    await locks.release([(_LOCK, _OWNER)])
    assert await locks.renew([(_LOCK, _OWNER, 30)]) == [False]
    link.put("reader_epoch:s", lock)
    link.put("reader:s", fence)
    epoch = await pods.claim_reader("pod", "s@t", 1.0)
    record = ReaderRecord(pod_id="pod", epoch=epoch, stream="s@t", since=1.0)
    assert await pods.keep_reader(record)
    link.put("reader:s", fence)
    await pods.resign_reader("pod")


def lua(data: bytes) -> bool:
    """Whatever stands in Redis, a lock can be had, renewed and released, and a reader named."""
    try:
        _lua(data).send(None)
    except StopIteration:
        return True
    raise AssertionError("it waited")


# -- HTTP -----------------------------------------------------------------------------------------


_ODD = re.compile(r"[\s/?#@,]")


def origin(data: bytes) -> bool:
    """The same host, exactly if a URL parser finds the same host and port."""
    text = data.decode("latin-1")
    given, _, host = text.partition("|")
    if not _is_same_host(given, host):
        assert not host or given not in (f"http://{host}", f"https://{host}") or _ODD.search(host)
        return False
    parts = urlsplit(given)
    assert parts.scheme in ("http", "https")
    assert parts.path == parts.query == parts.fragment == ""
    assert parts.username is None
    ports = {"http": ":80", "https": ":443"}
    bare = host.lower().removesuffix(ports[parts.scheme])
    assert parts.netloc.lower().removesuffix(ports[parts.scheme]) == bare
    return True


_BATCH = packets.encode(
    Batch(5, "s@t", 9, [Item(7, 1, "websocket.a.b.chats", b"{}", "r"), Item(9, 2, "x", b"")], 3)
)
_PUSH = PushEventRequest(target_company_id="acme", target_agent_id="bot", source_pod_id="old")
_PUSH.payload.event_id = "e"
_PUSH.payload.company_id = "acme"
_PUSH.payload.row_data.update({"a": [1, 2.5, None, {"b": True}]})
_RECORD = PodRecord(
    pod_id="h-0-1", host="h", slot=0, generation=1, address="1.2.3.4:5", http_port=1, started=1.5,
    version="1", pid=1,
)  # fmt: skip
_READER = ReaderRecord(pod_id="h-0-1", epoch=5, stream="s@t", since=1.5)

TARGETS = [
    Target(
        "subject",
        subject,
        [f"websocket.acme.bot.{end}".encode() for end in ("chats", "agents", "messages.c1")],
        [b"websocket.", b".chats", b".agents", b".messages.", b"\xd9\xa1", b"\xc2\xaa"],
    ),
    Target(
        "route-key", route_key, [b"route:a:b:chats", b"route:a:b:messages:c", b"admin_route:*:b"]
    ),
    Target(
        "ack-subject",
        ack_subject,
        [b"$JS.ACK.s.c.1.2.3.4.5", b"$JS.ACK.d.h.s.c.1.2.3.4.5.t"],
        [b"_INBOX.x", b".", b".1", b"-1"],
    ),
    Target("token", token, [t.encode() for t in _TOKENS], [b"=", b"==", b"-", b"_", b"A" * 40]),
    Target(
        "packet",
        packet,
        [
            _BATCH,
            *map(packets.encode, (
                packets.Hello("pod"), packets.Barrier(1, ["websocket.a.b.chats"]),
                packets.Displace(2, "session:a:b:c", "pod#1"), packets.Accepted(1, 2, 3),
                packets.Stale(4, 5), packets.BarrierReply(1, True, 2, "s", 3),
                packets.Displaced(1), packets.Failed(1, "x"),
            )),
        ],
        [b"\x90", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1"],
        2,
    ),
    Target("push-event", push_event, [_PUSH.SerializeToString()], weight=4),
    Target(
        "records",
        records,
        [
            msgspec.json.encode(_RECORD),
            msgspec.json.encode(_READER),
            b'{"new_pod_id":"p","holder":"p#1"}',
        ],
        [b'"epoch":', b'"pod_id":'],
        2,
    ),
    Target(
        "lua",
        lua,
        [
            b"pod-b-0-1#2|1700000000000000 pod-b-0-1#2",
            b"pod-b|",
            b"|12 ",
            b'123|{"pod_id":"pod"}',
        ],
        [b"|", b" ", b"\n", b"1e400", b"nan", b"inf", b"0x10", b"%d", b'{"pod_id":[]}'],
        60,
    ),
    Target("origin", origin, [b"https://a.example|a.example", b"http://a:80|A"],
           [b"@", b"null", b"/", b":80", b":443"]),
]  # fmt: skip
