"""Sums over the steps, of each phase and each member, and an index of events, so that the page need not read all."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

PHASES = """
INSERT INTO phase_totals (phase, steps, refused, seconds, device_seconds, bytes_down, bytes_up)
SELECT phase, count(*), sum(refused), sum(seconds), sum(device_seconds), sum(bytes_down), sum(bytes_up)
FROM steps GROUP BY phase
"""
MEMBERS = """
INSERT INTO member_totals (member, steps, last_step, num_examples)
SELECT c.member, t.steps, t.last_step, c.num_examples
FROM contributions c JOIN (
    SELECT member, count(*) AS steps, max(step) AS last_step FROM contributions GROUP BY member
) t ON c.member = t.member AND c.step = t.last_step
"""


def upgrade() -> None:
    """Make the tables, and fill them from the steps that are there."""
    op.create_table(
        "phase_totals",
        sa.Column("phase", sa.Text, primary_key=True),
        sa.Column("steps", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("device_seconds", sa.Double, nullable=False),
        sa.Column("bytes_down", sa.BigInteger, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "member_totals",
        sa.Column("member", sa.Integer, sa.ForeignKey("members.number"), primary_key=True, autoincrement=False),
        sa.Column("steps", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.Integer, nullable=False),
        sa.Column("num_examples", sa.BigInteger, nullable=False),
    )
    op.create_index("events_kind", "events", ["kind"])
    op.execute(PHASES)
    op.execute(MEMBERS)
