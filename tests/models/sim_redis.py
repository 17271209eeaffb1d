"""A Redis in memory, on the simulated clock, that runs the project's real Lua scripts.

Only what the adapters use is there: strings, sets, expiry, scripts, client tracking with opt-in,
pub/sub by pattern. It is held to what the real one does by the suite of
`tests/adapters/locks_conformance.py`, see `test_sim_redis.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from hashlib import sha1
from itertools import count
from typing import Any

from lupa import lua51
from redis.exceptions import NoScriptError, ResponseError

Reply = Any
Value = bytes | set[bytes]

_READS = frozenset({"GET", "EXISTS", "MGET", "SMEMBERS", "SISMEMBER", "PTTL"})


_numbers = count(1)


class Client:
    """One connection, as the server knows it.

    :param push: takes what the server says unasked.
    """

    def __init__(self, push: Callable[[list[Any]], None]) -> None:
        self.push = push
        self.number = next(_numbers)
        self.tracking = False
        self.caching = False
        self.tracked: set[bytes] = set()
        self.patterns: list[bytes] = []


@cache
def _runtime() -> Any:
    return lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)


_WRAPPER = b"""
function(text)
  local body = loadstring(text)
  return function(call, decode, keys, argv)
    setfenv(body, {
      KEYS = keys, ARGV = argv, redis = {call = call, pcall = call}, cjson = {decode = decode},
      string = string, math = math, table = table,
      pcall = pcall, tonumber = tonumber,
      tostring = tostring, type = type, ipairs = ipairs, pairs = pairs,
    })
    return body()
  end
end
"""


@cache
def _compiled(text: bytes) -> Any:
    return _runtime().eval(_WRAPPER)(text)


class RedisServer:
    """The server. Every command is one step: nothing happens in between."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._data: dict[bytes, Value] = {}
        self._expires: dict[bytes, float] = {}
        self._scripts: dict[bytes, bytes] = {}
        self.clients: set[Client] = set()
        self.skew = 0.0
        """Seconds that somebody has set the clock forward, or back, that scripts ask for."""
        self.on_set: Callable[[bytes, bytes], None] = lambda *_: None
        """An onlooker, told each text that is stored."""

    def execute(self, client: Client, *command: object) -> Reply:
        """Do a command; errors are returned, not raised."""
        self._expire()
        name, *args = (_bytes(part) for part in command)
        word = name.decode().upper()
        try:
            reply = self._command(client, word, args)
        except ResponseError as error:
            reply = error
        if word in _READS:
            self._track(client, args if word == "MGET" else args[:1])
        if client.caching and word != "CLIENT":
            client.caching = False
        return reply

    def flush(self) -> None:
        """Forget everything."""
        self._data.clear()
        self._expires.clear()
        for client in self.clients:
            if client.tracking:
                client.tracked.clear()
                client.push([b"invalidate", None])

    def value(self, key: str) -> Value | None:
        """Return what is stored, as an onlooker."""
        self._expire()
        return self._data.get(key.encode())

    def ttl(self, key: str) -> float | None:
        """Return how many seconds a key has left, None for ever (or no key)."""
        self._expire()
        at = self._expires.get(key.encode())
        return None if at is None else at - self._clock()

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, at in self._expires.items() if at <= now]:
            self._delete(key)

    # -- commands ---------------------------------------------------------------------------------

    def _command(  # noqa: C901, PLR0911 - one for each command
        self, client: Client, word: str, args: list[bytes]
    ) -> Reply:
        match word, args:
            case "PING", _:
                return b"PONG"
            case "INFO", [b"server"]:
                return b"run_id:0123456789abcdef"
            case "CLIENT", [b"TRACKING", b"ON", b"OPTIN"]:
                client.tracking = True
                return b"OK"
            case "CLIENT", [b"CACHING", b"YES"]:
                client.caching = True
                return b"OK"
            case "CLIENT", [b"INFO"]:
                return b"id=%d addr=sim:%d name=" % (client.number, client.number)
            case "CLIENT", [b"KILL", b"ID", number, b"ADDR", *_]:
                # A connection that its client has given up is gone here at once.
                return int(int(number) != client.number)
            case "PSUBSCRIBE", [pattern]:
                client.patterns.append(pattern)
                return [b"psubscribe", pattern, len(client.patterns)]
            case "PUBLISH", [channel, data]:
                return self._publish(channel, data)
            case "SCRIPT", [b"LOAD", text]:
                return self._load(text)
            case "EVAL", [text, *rest]:
                return self._run(client, self._load(text), rest)
            case "EVALSHA", [digest, *rest]:
                if digest not in self._scripts:
                    return NoScriptError("No matching script.")
                return self._run(client, digest, rest)
        return self._on_keys(client, word, args)

    def _on_keys(  # noqa: C901, PLR0911, PLR0912 - one for each command
        self, client: Client, word: str, args: list[bytes]
    ) -> Reply:
        match word, args:
            case (("GET" | "GETEX"), [key]):
                return self._text(key)
            case "MGET", keys:
                return [v if isinstance(v := self._data.get(k), bytes) else None for k in keys]
            case "EXISTS", [key]:
                return int(key in self._data)
            case "SET", [key, value, *options]:
                return self._set(client, key, value, options)
            case "DEL", keys:
                return sum(self._delete(key, client) for key in keys)
            case "SADD", [key, *members]:
                return self._change(key, lambda s: s | set(members), client)
            case "SREM", [key, *members]:
                return self._change(key, lambda s: s - set(members), client)
            case "SMEMBERS", [key]:
                return set(self._set_at(key))
            case "SISMEMBER", [key, member]:
                return int(member in self._set_at(key))
            case "PEXPIRE", [key, milliseconds]:
                return self._pexpire(key, float(milliseconds), client)
            case "PTTL", [key]:
                if key not in self._data:
                    return -2
                at = self._expires.get(key)
                return -1 if at is None else int((at - self._clock()) * 1000)
            case "TIME", []:
                now = self._clock() + self.skew
                return [b"%d" % now, b"%d" % (now % 1 * 1_000_000)]
        raise AssertionError(f"the simulated Redis does not know {word} {args}")

    def _text(self, key: bytes) -> bytes | None:
        value = self._data.get(key)
        if isinstance(value, set):
            raise ResponseError("WRONGTYPE")
        return value

    def _set_at(self, key: bytes) -> set[bytes]:
        value = self._data.get(key, set())
        if isinstance(value, bytes):
            raise ResponseError("WRONGTYPE")
        return value

    def _set(self, client: Client, key: bytes, value: bytes, options: list[bytes]) -> Reply:
        words = [option.upper() for option in options]
        if (b"NX" in words and key in self._data) or (b"XX" in words and key not in self._data):
            return None
        self._data[key] = value
        self.on_set(key, value)
        if b"PX" in words:
            self._expires[key] = self._clock() + float(options[words.index(b"PX") + 1]) / 1000
        elif b"KEEPTTL" not in words:
            self._expires.pop(key, None)
        self._changed(key, client)
        return b"OK"

    def _delete(self, key: bytes, by: Client | None = None) -> int:
        if self._data.pop(key, None) is None:
            return 0
        self._expires.pop(key, None)
        self._changed(key, by)
        return 1

    def _change(
        self, key: bytes, change: Callable[[set[bytes]], set[bytes]], client: Client
    ) -> int:
        before = self._set_at(key)
        after = change(before)
        if after == before:
            return 0
        if after:
            self._data[key] = after
            self._changed(key, client)
        else:
            self._delete(key, client)
        return len(before ^ after)

    def _pexpire(self, key: bytes, milliseconds: float, client: Client) -> int:
        if key not in self._data:
            return 0
        self._expires[key] = self._clock() + milliseconds / 1000
        self._changed(key, client)
        return 1

    # -- what is told unasked ---------------------------------------------------------------------

    def _track(self, client: Client, keys: list[bytes]) -> None:
        if client.tracking and client.caching:
            client.tracked.update(keys)

    def _changed(self, key: bytes, by: Client | None) -> None:
        for client in self.clients:
            if key in client.tracked:
                client.tracked.discard(key)
                client.push([b"invalidate", [key]])

    def _publish(self, channel: bytes, data: bytes) -> int:
        heard = 0
        for client in self.clients:
            for pattern in client.patterns:
                if fnmatchcase(channel.decode(), pattern.decode()):
                    client.push([b"pmessage", pattern, channel, data])
                    heard += 1
        return heard

    # -- scripts ----------------------------------------------------------------------------------

    def _load(self, text: bytes) -> bytes:
        digest = sha1(text, usedforsecurity=False).hexdigest().encode()
        self._scripts[digest] = text
        return digest

    def _run(self, client: Client, digest: bytes, rest: list[bytes]) -> Reply:
        count = int(rest[0])
        lua = _runtime()

        def call(name: bytes, *args: bytes | float) -> object:
            reply = self._command(client, name.decode().upper(), [_number(arg) for arg in args])
            return _to_lua(reply)

        keys, argv = lua.table_from(rest[1 : 1 + count]), lua.table_from(rest[1 + count :])
        return _from_lua(_compiled(self._scripts[digest])(call, _decoder, keys, argv))


def _decoder(text: bytes) -> object:
    found = json.loads(text)
    if not isinstance(found, dict):
        return found if isinstance(found, (int, float)) else _runtime().table_from([])
    texts = {k: v for k, v in found.items() if isinstance(v, str)}
    pairs = {k.encode("utf-8", "replace"): v.encode("utf-8", "replace") for k, v in texts.items()}
    return _runtime().table_from(pairs)


def _bytes(part: object) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


def _number(arg: bytes | float) -> bytes:
    """As Lua writes numbers."""
    return arg if isinstance(arg, bytes) else b"%.17g" % arg


def _to_lua(reply: object) -> object:
    if reply is None:
        return False
    if isinstance(reply, (list, set)):
        return _runtime().table_from([_to_lua(part) for part in reply])
    return reply


def _from_lua(reply: object) -> Reply:
    if reply is None or reply is False:
        return None
    if reply is True:
        return 1
    if isinstance(reply, (int, float)):
        return int(reply)
    if isinstance(reply, bytes):
        return reply
    table: Any = reply
    return [_from_lua(table[index]) for index in range(1, len(table) + 1)]
