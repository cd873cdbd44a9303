"""fedquit: federated learning that can forget.

The Python API is what `__all__` names; each name is imported when it is used, so `import fedquit` loads nothing of
torch or Flower.

The code lives in the top-level folders `client/`, `server/`, `strategies/`, `unlearning/` and
`simulations/`; they are imported as `fedquit.client`, `fedquit.server` and so on. In a checkout the
links beside this file show them to type checkers; in a Flower bundle, which carries no links, and
where links were checked out as text files, the path entry below finds the folders themselves.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedquit.client.forgetting_mod import forgetting_mod
    from fedquit.client.receipts.statement import Receipt
    from fedquit.client.receipts.verify_receipt import verify
    from fedquit.errors import BadReceiptError, FedquitError, InputError
    from fedquit.settings import Settings
    from fedquit.simulations.api.audit_result import AuditResult, audit
    from fedquit.simulations.api.comparison_result import (
        ComparisonResult,
        ComparisonRow,
        Spread,
        compare,
        read_results,
    )
    from fedquit.simulations.api.run_functions import read_report, simulate
    from fedquit.simulations.api.run_parts import Phase, Ratios, Request, Stage
    from fedquit.simulations.api.run_result import RunResult
    from fedquit.strategies.forgetting import Forgetting
    from fedquit.unlearning.evaluation.verdict import Verdict

__version__ = "0.1.0"

__all__ = [
    "AuditResult",
    "BadReceiptError",
    "ComparisonResult",
    "ComparisonRow",
    "FedquitError",
    "Forgetting",
    "InputError",
    "Phase",
    "Ratios",
    "Receipt",
    "Request",
    "RunResult",
    "Settings",
    "Spread",
    "Stage",
    "Verdict",
    "audit",
    "compare",
    "forgetting_mod",
    "read_report",
    "read_results",
    "simulate",
    "verify",
]

__path__.append(str(Path(__file__).resolve().parent.parent))

_HOMES = {
    "client.forgetting_mod": ("forgetting_mod",),
    "client.receipts.statement": ("Receipt",),
    "client.receipts.verify_receipt": ("verify",),
    "errors": ("BadReceiptError", "FedquitError", "InputError"),
    "settings": ("Settings",),
    "simulations.api.audit_result": ("AuditResult", "audit"),
    "simulations.api.comparison_result": ("ComparisonResult", "ComparisonRow", "Spread", "compare", "read_results"),
    "simulations.api.run_functions": ("read_report", "simulate"),
    "simulations.api.run_parts": ("Phase", "Ratios", "Request", "Stage"),
    "simulations.api.run_result": ("RunResult",),
    "strategies.forgetting": ("Forgetting",),
    "unlearning.evaluation.verdict": ("Verdict",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fedquit' has no attribute '{name}'")
    from fedquit.extras import extras_named

    with extras_named():
        found = getattr(import_module(f"fedquit.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the API and what modules have anyway."""
    return sorted({*globals(), *__all__})
