"""The tables, as SQLAlchemy sees them; the migrations make them (a test compares the two)."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

members = Table(
    "members",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("fingerprint", Text, nullable=False, unique=True),
    Column("key", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("enrolled_at", Double, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("place", Integer, nullable=False, unique=True),  # 1, 2, 3, ... in the order in which they were taken
    Column("subject", Integer, ForeignKey("members.number"), nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("granularity", Text, nullable=False),
    Column("classes", Text, nullable=False),  # JSON
    Column("samples_count", BigInteger, nullable=False),
    Column("samples_digest", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("deadline", Double, nullable=False),
    Column("method", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("model_before", Text, nullable=False),
    Column("model_after", Text, nullable=False),
    Column("receipt", LargeBinary),
    Column("ask", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("changed_at", Double, nullable=False),
    Index("requests_status", "status"),
    Index("requests_subject", "subject"),
    Index("requests_asked_by", "asked_by", "asked_at"),
)

steps = Table(
    "steps",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("phase", Text, nullable=False),
    Column("request", Text, ForeignKey("requests.id")),
    Column("model_before", Text, nullable=False),
    Column("model_after", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("device_seconds", Double, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("measures", Text, nullable=False),  # JSON
    Column("at", Double, nullable=False),
    Index("steps_request", "request"),
    Index("steps_model_after", "model_after"),
)

contributions = Table(
    "contributions",
    metadata,
    Column("step", Integer, ForeignKey("steps.number"), primary_key=True),
    Column("member", Integer, ForeignKey("members.number"), primary_key=True),
    Column("num_examples", BigInteger, nullable=False),
    Column("samples_digest", Text, nullable=False),
    Index("contributions_member", "member", "step"),
)

phase_totals = Table(  # sums over the steps, kept with each so that nobody need read them all
    "phase_totals",
    metadata,
    Column("phase", Text, primary_key=True),
    Column("steps", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("device_seconds", Double, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
)

member_totals = Table(
    "member_totals",
    metadata,
    Column("member", Integer, ForeignKey("members.number"), primary_key=True, autoincrement=False),
    Column("steps", BigInteger, nullable=False),
    Column("last_step", Integer, nullable=False),
    Column("num_examples", BigInteger, nullable=False),  # in that step
)

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("request", Text),
    Column("member", Integer),
    Column("facts", Text, nullable=False),  # canonical JSON
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Index("events_request", "request"),
    Index("events_kind", "kind"),
)

head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("seal", LargeBinary),
)
