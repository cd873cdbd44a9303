"""Members, requests, steps and who contributed to them, the audit log and its head."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables; the chain begins with no event."""
    op.create_table(
        "members",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("enrolled_at", sa.Double, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("place", sa.Integer, nullable=False, unique=True),
        sa.Column("subject", sa.Integer, sa.ForeignKey("members.number"), nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("granularity", sa.Text, nullable=False),
        sa.Column("classes", sa.Text, nullable=False),
        sa.Column("samples_count", sa.BigInteger, nullable=False),
        sa.Column("samples_digest", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("deadline", sa.Double, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("model_before", sa.Text, nullable=False),
        sa.Column("model_after", sa.Text, nullable=False),
        sa.Column("receipt", sa.LargeBinary),
        sa.Column("ask", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
    )
    op.create_index("requests_status", "requests", ["status"])
    op.create_index("requests_subject", "requests", ["subject"])
    op.create_index("requests_asked_by", "requests", ["asked_by", "asked_at"])
    op.create_table(
        "steps",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("request", sa.Text, sa.ForeignKey("requests.id")),
        sa.Column("model_before", sa.Text, nullable=False),
        sa.Column("model_after", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("device_seconds", sa.Double, nullable=False),
        sa.Column("bytes_down", sa.BigInteger, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("measures", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("steps_request", "steps", ["request"])
    op.create_table(
        "contributions",
        sa.Column("step", sa.Integer, sa.ForeignKey("steps.number"), primary_key=True),
        sa.Column("member", sa.Integer, sa.ForeignKey("members.number"), primary_key=True),
        sa.Column("num_examples", sa.BigInteger, nullable=False),
        sa.Column("samples_digest", sa.Text, nullable=False),
    )
    op.create_index("contributions_member", "contributions", ["member"])
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("member", sa.Integer),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_index("events_request", "events", ["request"])
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("seal", sa.LargeBinary),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "digest": "0" * 64, "seal": None}])
