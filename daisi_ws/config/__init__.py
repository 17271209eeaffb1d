"""The configuration: one typed schema, read from a YAML file, the environment and flags.

``load`` gives a checked ``Config`` or raises ``ConfigError`` with every problem at once. Nothing
here imports an event loop or a client library: the supervisor uses it before it forks.
"""

from daisi_ws.config.addresses import RedisTarget, nats_tls, redis_target, redis_tls
from daisi_ws.config.environment import FILE_VARIABLE
from daisi_ws.config.keys import MASK, Field, Key, Section, Value, without_userinfo
from daisi_ws.config.load import DEFAULT_FILE, Changes, Loaded, changed, file_to_read, load
from daisi_ws.config.problems import SECRET_HINT, ConfigError, Problem
from daisi_ws.config.reload import Settled, kept_by, restored, settle, values_of
from daisi_ws.config.rules_auth import cautions, previous_of
from daisi_ws.config.rules_tls import TlsSection, ends_at, wrong_files
from daisi_ws.config.schema import (
    FIELDS,
    SECTIONS,
    AdaptiveTtl,
    App,
    Auth,
    ClientTls,
    Config,
    HttpTls,
    Limits,
    Log,
    Nats,
    PeerTls,
    Redis,
    Resume,
    Server,
    TtlRange,
    value_of,
)
from daisi_ws.config.testing import testing_config
from daisi_ws.config.values import shown
from daisi_ws.config.watch import FileWatch, files_of

__all__ = [
    "DEFAULT_FILE",
    "FIELDS",
    "FILE_VARIABLE",
    "MASK",
    "SECRET_HINT",
    "SECTIONS",
    "AdaptiveTtl",
    "App",
    "Auth",
    "Changes",
    "ClientTls",
    "Config",
    "ConfigError",
    "Field",
    "FileWatch",
    "HttpTls",
    "Key",
    "Limits",
    "Loaded",
    "Log",
    "Nats",
    "PeerTls",
    "Problem",
    "Redis",
    "RedisTarget",
    "Resume",
    "Section",
    "Server",
    "Settled",
    "TlsSection",
    "TtlRange",
    "Value",
    "cautions",
    "changed",
    "ends_at",
    "file_to_read",
    "files_of",
    "kept_by",
    "load",
    "nats_tls",
    "previous_of",
    "redis_target",
    "redis_tls",
    "restored",
    "settle",
    "shown",
    "testing_config",
    "value_of",
    "values_of",
    "without_userinfo",
    "wrong_files",
]
