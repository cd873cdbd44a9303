"""The ledger: who takes part, who asked to be forgotten and how far that is, what each round contained, and the log.

The service and the coordinator both hold it open. Every method that writes is one transaction, alone, and on the disk
when it returns; each writes its event. See docs/ledger.md.
"""

from fedquit.server.ledger.interface.ledger_log import LedgerLog
from fedquit.server.ledger.interface.ledger_members import LedgerMembers
from fedquit.server.ledger.interface.ledger_requests import LedgerRequests
from fedquit.server.ledger.interface.ledger_steps import LedgerSteps


class Ledger(LedgerMembers, LedgerRequests, LedgerSteps, LedgerLog):
    """An open ledger; threads may share it, forked processes may not.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> ledger = Ledger.open(f"sqlite:///{folder.name}/ledger.db")
    >>> ledger.enrol("north clinic", b"its public key").number
    0
    >>> [event.kind for event in ledger.events()], ledger.check_chain()
    (['enrolled'], [])
    >>> ledger.close()
    >>> folder.cleanup()
    """
