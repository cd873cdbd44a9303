"""What a Prometheus and a Grafana that watch a server are given: alert rules and a dashboard, for this federation.

Both are over the metrics of the operator's page (`fedquit.server.page.metrics.metrics`), and name no others.
"""

import json
from dataclasses import dataclass
from typing import Any

from fedquit.server.federation import Federation


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: when it fires, for how long that must hold, how bad it is, and what the operator does."""

    name: str
    expression: str
    holds: str
    severity: str
    summary: str
    action: str


def alerts(federation: Federation) -> list[Alert]:
    """Return the alerts of a federation, whose schedule says when training is late.

    >>> alerts(Federation(name="clinics"))[0].expression
    'absent(fedquit_members{federation="clinics"})'
    """
    schedule, name = federation.schedule, federation.name
    late = 2 * schedule.every + 2 * schedule.round_timeout
    stalled = f"time() - {_of(name, 'last_step_timestamp_seconds')} > {late:.0f}"
    if schedule.rounds:  # after the last one nothing more is due
        trained = _of(name, "steps_total", phase="train")
        stalled = f"{stalled} and on (federation) {trained} < {schedule.rounds}"
    ended = "the request's page says why"
    return [
        Alert("FedquitSilent", f"absent({_of(name, 'members')})", "5m", "critical",
              "The server's page gives no figures", "Is fedquit serve running? See server/logs"),
        Alert("FedquitRequestOverdue", f"{_of(name, 'requests_overdue')} > 0", "0m", "critical",
              "A request to forget is past its deadline", "Its page says for whom it waits; docs/page.md"),
        Alert("FedquitRequestFailed", f"delta({_of(name, 'requests', status='failed')}[1h]) > 0", "0m", "critical",
              "A request failed: the model still contains the data", f"Mend the cause and ask again; {ended}"),
        Alert("FedquitRequestUnrecovered", f"delta({_of(name, 'requests', status='unrecovered')}[1h]) > 0", "0m",
              "warning", "A request was served, but accuracy was not back", "Do the next rounds bring it back?"),
        Alert("FedquitRequestNotBegun", f"{_of(name, 'requests', status='asked')} > 0", "1d", "warning",
              "For a day a request has not been begun", "Is another one waiting for its device?"),
        Alert("FedquitTrainingLate", stalled, "10m", "warning",
              "No step was finished in more than two intervals", "Are enough devices connected? See /healthz"),
        Alert("FedquitCertificateEnds", f"{_of(name, 'certificate_ends_timestamp_seconds')} - time() < {30 * 86400}",
              "10m", "warning", "A certificate ends within 30 days", "Renew it: docs/deploy.md, Certificates"),
        Alert("FedquitRepliesRefused", f"increase({_of(name, 'refused_replies_total')}[1h]) > 0", "0m", "warning",
              "Replies of devices were refused", "The first page says whose, and why"),
    ]  # fmt: skip


def alert_rules(federation: Federation) -> str:
    """Return a file of rules for Prometheus (`rule_files`)."""
    lines = [
        "# Made by `fedquit provision`, for rule_files of Prometheus; provision again when [schedule] changes.",
        "groups:",
        f"  - name: fedquit-{federation.name}",
        "    rules:",
    ]
    for alert in alerts(federation):
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",  # a JSON string is a YAML string
            f"        for: {alert.holds}",
            f"        labels: {{severity: {alert.severity}, federation: {federation.name}}}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          action: {json.dumps(alert.action)}",
        ]
    return "\n".join(lines) + "\n"


def dashboard(federation: Federation) -> str:
    """Return a dashboard to be imported into Grafana, which asks for its Prometheus."""
    name = federation.name

    def metric(figure: str, **labels: str) -> str:
        return _of(name, figure, **labels)

    panels = [
        _panel("stat", "Requests overdue", (0, 0, 6), [(metric("requests_overdue"), "overdue")]),
        _panel("stat", "Requests open", (6, 0, 6),
               [(f"sum({metric('requests', status='~asked|forgetting|recovering')})", "open")]),
        _panel("stat", "Active devices", (12, 0, 6), [(metric("members", role="device", status="active"), "devices")]),
        _panel("stat", "Since the last step", (18, 0, 6),
               [(f"time() - {metric('last_step_timestamp_seconds')}", "seconds")], unit="s"),
        _panel("timeseries", "Requests by state", (0, 4, 12), [(metric("requests"), "{{status}}")]),
        _panel("timeseries", "Steps an hour", (12, 4, 12),
               [(f"increase({metric('steps_total')}[1h])", "{{phase}}")]),
        _panel("timeseries", "Bytes an hour", (0, 12, 12),
               [(f"increase({metric('bytes_total')}[1h])", "{{phase}} {{direction}}")], unit="bytes"),
        _panel("timeseries", "Processor time of devices, an hour", (12, 12, 12),
               [(f"increase({metric('device_seconds_total')}[1h])", "{{phase}}")], unit="s"),
        _panel("timeseries", "Replies refused, an hour", (0, 20, 12),
               [(f"increase({metric('refused_replies_total')}[1h])", "refused")]),
        _panel("timeseries", "Members", (12, 20, 12), [(metric("members"), "{{role}} {{status}}")]),
        _panel("timeseries", "Until a certificate ends", (0, 28, 12),
               [(f"{metric('certificate_ends_timestamp_seconds')} - time()", "{{certificate}}")], unit="s"),
    ]  # fmt: skip
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    document = {
        "title": f"fedquit: {name}",
        "uid": f"fedquit-{name}"[:40],
        "tags": ["fedquit"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [source]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }
    return json.dumps(document, indent=1) + "\n"


def _of(federation: str, figure: str, **labels: str) -> str:
    """Return the selector of a figure of a federation; a value that begins with ~ is a regular expression.

    >>> _of("clinics", "requests", status="~asked|failed")
    'fedquit_requests{federation="clinics",status=~"asked|failed"}'
    """
    values = {"federation": federation, **labels}
    told = ",".join(f'{key}{"=~" if value[0] == "~" else "="}"{value.lstrip("~")}"' for key, value in values.items())
    return f"fedquit_{figure}{{{told}}}"


def _panel(
    kind: str, title: str, place: tuple[int, int, int], queries: list[tuple[str, str]], unit: str = "short"
) -> dict[str, Any]:
    """Return a panel at (column, row) of a width in 24ths; a number is 4 rows high, a curve 8."""
    column, row, width = place
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": kind,
        "title": title,
        "datasource": source,
        "gridPos": {"x": column, "y": row, "w": width, "h": 4 if kind == "stat" else 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": "ABC"[number], "expr": expression, "legendFormat": legend, "datasource": source}
            for number, (expression, legend) in enumerate(queries)
        ],
    }
