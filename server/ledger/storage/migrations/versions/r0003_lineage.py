"""Indices by which the models that contain a request's data are found without reading all steps."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make an index of the models that steps made, and one of the steps to which a member contributed."""
    op.create_index("steps_model_after", "steps", ["model_after"])
    op.drop_index("contributions_member", table_name="contributions")
    op.create_index("contributions_member", "contributions", ["member", "step"])
