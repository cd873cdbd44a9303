"""The metrics of a federation for Prometheus (text exposition format), at a cost that does not grow with the ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence

from fedquit.server.federation import Federation
from fedquit.server.ledger import STATES, Ledger
from fedquit.server.page.ledger_view import OPEN, PHASES, costs

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]
Family = tuple[str, str, Sequence[Sample]]  # kind, help, samples


def metrics(ledger: Ledger, federation: Federation, now: float, ends: Mapping[str, float] | None = None) -> str:
    """Return the figures of a federation.

    Args:
        ledger: open for reading.
        federation: its config.
        now: Unix seconds.
        ends: when each certificate ends, Unix seconds.
    """
    lines = []
    for name, (kind, said, samples) in _families(ledger, now, ends or {}).items():
        lines += [f"# HELP fedquit_{name} {said}", f"# TYPE fedquit_{name} {kind}"]
        for labels, value in samples:
            labelled = ",".join(f'{key}="{text}"' for key, text in (("federation", federation.name), *labels))
            lines.append(f"fedquit_{name}{{{labelled}}} {value}")
    return "\n".join(lines) + "\n"


def _families(ledger: Ledger, now: float, ends: Mapping[str, float]) -> dict[str, Family]:
    """Return each family of figures by its name."""
    cost, by_status, last = costs(ledger), ledger.requests_by_status(), ledger.last_step()
    members = Counter((member.role, member.status) for member in ledger.members())
    roles, statuses = ("device", "operator"), ("active", "withdrawn", "revoked")
    refused = sum(phase.refused for phase in ledger.phase_totals().values())
    overdue = sum(now > line.deadline for line in ledger.request_lines(statuses=OPEN))
    return {
        "members": ("gauge", "Members that are enrolled, by role and status.",
                    [((("role", r), ("status", s)), members[r, s]) for r in roles for s in statuses]),
        "steps_total": ("counter", "Finished rounds and forget steps.",
                        [((("phase", p),), cost[p].steps) for p in PHASES]),
        "bytes_total": ("counter", "Bytes of models and messages to devices (down) and back (up).",
                        [((("phase", p), ("direction", d)), b) for p in PHASES
                         for d, b in (("down", cost[p].bytes_down), ("up", cost[p].bytes_up))]),
        "device_seconds_total": ("counter", "Processor seconds of the devices.",
                                 [((("phase", p),), cost[p].device_seconds) for p in PHASES]),
        "refused_replies_total": ("counter", "Replies of devices that did not go into the model.", [((), refused)]),
        "requests": ("gauge", "Requests to forget, by state.", [((("status", s),), by_status[s]) for s in STATES]),
        "requests_overdue": ("gauge", "Open requests that are past their deadline.", [((), overdue)]),
        "last_step_timestamp_seconds": ("gauge", "When the last step ended, Unix seconds.",
                                        [((), last.at)] if last else []),
        "certificate_ends_timestamp_seconds": ("gauge", "When a certificate ends, Unix seconds: the server's, and that "
                                               "of the authority.",
                                               [((("certificate", name),), end) for name, end in ends.items()]),
    }  # fmt: skip
