"""The steps in a ledger, sums over them, and which of their models contain the data of a request."""

from fedquit.server.ledger import model_lineage, steps, totals
from fedquit.server.ledger.interface.open_ledger import OpenLedger
from fedquit.server.ledger.rows import MemberTotals, PhaseTotals, RequestState, Step, StepLine


class LedgerSteps(OpenLedger):
    """What each round and each forget step contained."""

    def add_step(self, step: Step, *, kind: str = "round") -> None:
        """Store a finished step.

        Raises:
            StateError: it does not follow the last one, or trains on what a withdrawn member sent.
            InputError: its phase, request or a member is unknown, a member is in it twice, or a number is not finite.
        """
        with self._writing() as writing:
            steps.add(writing, step)
            writing.log(kind, request=step.request, facts=steps.facts_of(step), rows=[("steps", step.number)])

    def last_step(self) -> Step | None:
        """Return the last step, which says where the federation is; None before the first."""
        with self._database.read() as connection:
            return steps.last_of(connection)

    def steps(
        self, *, phase: str | None = None, request: str | None = None, after: int = 0, limit: int | None = None
    ) -> list[Step]:
        """Return the steps of that phase and for that request, after the one numbered `after`; the oldest `limit`."""
        with self._database.read() as connection:
            return steps.find(connection, phase, request, after, limit)

    def newest_steps(self, number: int) -> list[Step]:
        """Return that many of the last steps, the oldest of them first."""
        with self._database.read() as connection:
            return steps.newest(connection, number)

    def phase_totals(self) -> dict[str, PhaseTotals]:
        """Return the sums over the steps of each phase that there was; no step is read for it."""
        with self._database.read() as connection:
            return totals.phases(connection)

    def member_totals(self) -> dict[int, MemberTotals]:
        """Return what each member that contributed has contributed, by number; no step is read for it."""
        with self._database.read() as connection:
            return totals.members(connection)

    def has_contributed(self, member: int) -> bool:
        """Say whether a member contributed to any step."""
        with self._database.read() as connection:
            return steps.has_contributed(connection, member)

    def descendants(self, request: RequestState) -> list[StepLine]:
        """Return the steps whose models contained what a request is about until it was forgotten."""
        with self._database.read() as connection:
            return model_lineage.descendants(connection, request)

    def is_descendant(self, request: RequestState, model: str) -> bool:
        """Say whether a model (SHA-256 of its file) is that of one of the `descendants`."""
        with self._database.read() as connection:
            return model_lineage.is_descendant(connection, request, model)

    def check_exact(self, request: RequestState, model: str) -> None:
        """Check that a model descends from none that contained what the request is about.

        Raises:
            FedquitError: it does.
        """
        with self._database.read() as connection:
            model_lineage.check_exact(connection, request, model)

    def is_known(self, model: str) -> bool:
        """Say whether a model was ever the federation's."""
        with self._database.read() as connection:
            return model_lineage.is_known(connection, model)
