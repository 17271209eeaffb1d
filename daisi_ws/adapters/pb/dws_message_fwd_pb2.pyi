from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrichedEventPayloadMessage(_message.Message):
    __slots__ = ("event_id", "company_id", "agent_id", "message_id", "chat_id", "row_data", "event_time", "event_type")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    COMPANY_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAT_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_DATA_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    company_id: str
    agent_id: str
    message_id: str
    chat_id: str
    row_data: _struct_pb2.Struct
    event_time: str
    event_type: str
    def __init__(self, event_id: _Optional[str] = ..., company_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., message_id: _Optional[str] = ..., chat_id: _Optional[str] = ..., row_data: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., event_time: _Optional[str] = ..., event_type: _Optional[str] = ...) -> None: ...

class PushEventRequest(_message.Message):
    __slots__ = ("payload", "target_company_id", "target_agent_id", "target_chat_id", "source_pod_id")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TARGET_COMPANY_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_CHAT_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_POD_ID_FIELD_NUMBER: _ClassVar[int]
    payload: EnrichedEventPayloadMessage
    target_company_id: str
    target_agent_id: str
    target_chat_id: str
    source_pod_id: str
    def __init__(self, payload: _Optional[_Union[EnrichedEventPayloadMessage, _Mapping]] = ..., target_company_id: _Optional[str] = ..., target_agent_id: _Optional[str] = ..., target_chat_id: _Optional[str] = ..., source_pod_id: _Optional[str] = ...) -> None: ...

class PushEventResponse(_message.Message):
    __slots__ = ("success", "message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class Packet(_message.Message):
    __slots__ = ("body",)
    BODY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    def __init__(self, body: _Optional[bytes] = ...) -> None: ...
