"""Alert rules and dashboard: what they name is what the page gives, and each alert fires when it should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fedquit.server.federation import Federation, Schedule
from fedquit.server.ledger import STATES, Ledger
from fedquit.server.ledger.rows import Step
from fedquit.server.page.metrics import metrics
from fedquit.server.provision.watching_files import alert_rules, alerts, dashboard

FEDERATION = Federation(name="clinics", schedule=Schedule(every=3600.0, round_timeout=600.0))
STEP = Step(1, "train", None, "a" * 64, "b" * 64, 1, (), 0, 1.0, 1.0, 5, 5, {}, 100.0)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, dict[str, set[str]]]:
    """What the page gives: metric -> label -> its values."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.add_step(STEP)
    text = metrics(ledger, FEDERATION, 200.0, {"server": 1e9, "authority": 2e9})
    ledger.close()
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for key, value in sample.labels.items():
                labels.setdefault(key, set()).add(value)
    assert set(found["fedquit_requests"]["status"]) == set(STATES)
    return found


def expressions() -> Iterator[str]:
    for rule in yaml.safe_load(alert_rules(FEDERATION))["groups"][0]["rules"]:
        yield rule["expr"]
    for panel in json.loads(dashboard(FEDERATION))["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_metric_and_label_that_is_watched_is_one_that_the_page_gives(given: dict[str, Any]) -> None:
    named = [found for text in expressions() for found in re.findall(r"(fedquit_\w+)\{([^}]*)\}", text)]
    assert len(named) >= 17
    assert sum(text.count("fedquit_") for text in expressions()) == len(named)
    for metric, labels in named:
        assert metric in given
        for key, values in re.findall(r'(\w+)=~?"([^"]*)"', labels):
            assert set(values.split("|")) <= given[metric][key], (metric, key)


def test_the_dashboard_shows_every_metric_that_the_page_gives(given: dict[str, Any]) -> None:
    assert all(any(metric in text for text in expressions()) for metric in given)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in json.loads(dashboard(FEDERATION))["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_training_that_is_over_is_never_late() -> None:
    told = {alert.name: alert.expression for alert in alerts(Federation(name="c", schedule=Schedule(rounds=5)))}
    assert told["FedquitTrainingLate"].endswith('fedquit_steps_total{federation="c",phase="train"} < 5')


FIRES = {
    "FedquitRequestOverdue": ('requests_overdue{federation="clinics"}', "0 1 1", "2m"),
    "FedquitRequestFailed": ('requests{federation="clinics",status="failed"}', "3x30 4x10", "35m"),
    "FedquitRequestUnrecovered": ('requests{federation="clinics",status="unrecovered"}', "0x30 1x10", "35m"),
    "FedquitRequestNotBegun": ('requests{federation="clinics",status="asked"}', "1x1500", "1445m"),
    "FedquitTrainingLate": ('last_step_timestamp_seconds{federation="clinics"}', "60x200", "155m"),
    "FedquitCertificateEnds": (
        'certificate_ends_timestamp_seconds{federation="clinics",certificate="server"}',
        "2595000x60",  # 30 days and 50 minutes after the begin
        "65m",
    ),
    "FedquitRepliesRefused": ('refused_replies_total{federation="clinics"}', "0x30 2x10", "35m"),
    "FedquitSilent": ("other", "1x30", "10m"),
}
"""Alert -> a series, its values a minute apart (AxN: A, N more times), and when it must have fired."""


def test_each_alert_fires_when_it_should_and_none_while_all_is_well(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    rules = tmp_path / "rules.yml"
    rules.write_text(alert_rules(FEDERATION), encoding="utf-8")
    assert {alert.name for alert in alerts(FEDERATION)} == set(FIRES)
    well = {"series": 'fedquit_members{federation="clinics",role="device",status="active"}', "values": "3x1600"}
    tests = []
    for alert in alerts(FEDERATION):
        series, values, at = FIRES[alert.name]
        fired = {
            "exp_labels": {"severity": alert.severity, "federation": "clinics"} | _labels(series),
            "exp_annotations": {"summary": alert.summary, "action": alert.action},
        }
        given = [{"series": f"fedquit_{series}", "values": values}, *([] if alert.name == "FedquitSilent" else [well])]
        tests.append(
            {
                "interval": "1m",
                "input_series": given,
                "alert_rule_test": [
                    {"eval_time": at, "alertname": name, "exp_alerts": [fired] if name == alert.name else []}
                    for name in FIRES
                ],
            }
        )
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}), encoding="utf-8")
    for command in (["check", "rules", str(rules)], ["test", "rules", str(tmp_path / "tests.yml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _labels(series: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', series))
