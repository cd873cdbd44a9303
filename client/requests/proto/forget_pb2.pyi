from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ask(_message.Message):
    __slots__ = ("version", "federation", "identity", "subject", "granularity", "classes", "samples_count", "samples_digest", "nonce", "created_at", "note")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_COUNT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    version: int
    federation: str
    identity: str
    subject: str
    granularity: str
    classes: _containers.RepeatedScalarFieldContainer[int]
    samples_count: int
    samples_digest: str
    nonce: bytes
    created_at: int
    note: str
    def __init__(self, version: _Optional[int] = ..., federation: _Optional[str] = ..., identity: _Optional[str] = ..., subject: _Optional[str] = ..., granularity: _Optional[str] = ..., classes: _Optional[_Iterable[int]] = ..., samples_count: _Optional[int] = ..., samples_digest: _Optional[str] = ..., nonce: _Optional[bytes] = ..., created_at: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class SignedAsk(_message.Message):
    __slots__ = ("ask", "signature")
    ASK_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ask: bytes
    signature: bytes
    def __init__(self, ask: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("federation", "identity", "method", "request", "created_at", "nonce")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    federation: str
    identity: str
    method: str
    request: str
    created_at: int
    nonce: bytes
    def __init__(self, federation: _Optional[str] = ..., identity: _Optional[str] = ..., method: _Optional[str] = ..., request: _Optional[str] = ..., created_at: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class RequestId(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Submitted(_message.Message):
    __slots__ = ("request", "known")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    request: Request
    known: bool
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ..., known: _Optional[bool] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("id", "status", "granularity", "classes", "samples_count", "samples_digest", "subject", "subject_name", "asked_by", "asked_at", "deadline", "changed_at", "method", "reason", "model_before", "model_after", "has_receipt")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_COUNT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_NAME_FIELD_NUMBER: _ClassVar[int]
    ASKED_BY_FIELD_NUMBER: _ClassVar[int]
    ASKED_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_BEFORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_AFTER_FIELD_NUMBER: _ClassVar[int]
    HAS_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: str
    granularity: str
    classes: _containers.RepeatedScalarFieldContainer[int]
    samples_count: int
    samples_digest: str
    subject: str
    subject_name: str
    asked_by: str
    asked_at: float
    deadline: float
    changed_at: float
    method: str
    reason: str
    model_before: str
    model_after: str
    has_receipt: bool
    def __init__(self, id: _Optional[str] = ..., status: _Optional[str] = ..., granularity: _Optional[str] = ..., classes: _Optional[_Iterable[int]] = ..., samples_count: _Optional[int] = ..., samples_digest: _Optional[str] = ..., subject: _Optional[str] = ..., subject_name: _Optional[str] = ..., asked_by: _Optional[str] = ..., asked_at: _Optional[float] = ..., deadline: _Optional[float] = ..., changed_at: _Optional[float] = ..., method: _Optional[str] = ..., reason: _Optional[str] = ..., model_before: _Optional[str] = ..., model_after: _Optional[str] = ..., has_receipt: _Optional[bool] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("id", "status", "at", "reason", "number")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: str
    at: float
    reason: str
    number: int
    def __init__(self, id: _Optional[str] = ..., status: _Optional[str] = ..., at: _Optional[float] = ..., reason: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class SignedReceipt(_message.Message):
    __slots__ = ("id", "receipt")
    ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    id: str
    receipt: bytes
    def __init__(self, id: _Optional[str] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("status", "limit", "before")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    status: str
    limit: int
    before: str
    def __init__(self, status: _Optional[str] = ..., limit: _Optional[int] = ..., before: _Optional[str] = ...) -> None: ...

class Requests(_message.Message):
    __slots__ = ("requests", "more")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Request]
    more: bool
    def __init__(self, requests: _Optional[_Iterable[_Union[Request, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...
