"""Documents as tables for people."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedquit.server.run.phases import nth
from fedquit.simulations.simulate.leak_table import leak_lines

STAGE_ROWS = (
    ("forget accuracy", lambda stage: _percent(stage["forget_accuracy"])),
    ("retain accuracy", lambda stage: _percent(stage["retain_accuracy"])),
    ("test accuracy", lambda stage: _percent(stage["test_accuracy"])),
    ("worst class, test", lambda stage: _percent(stage["worst_class_accuracy"])),
    ("worst client, own data", lambda stage: _percent(stage["worst_client_accuracy"])),
    ("forget loss", lambda stage: f"{stage['forget_loss']:.3f}"),
    ("called members (confidence)", lambda stage: _percent(stage["attacks"]["confidence"]["member_rate"])),
    ("called members (mod. entropy)", lambda stage: _percent(stage["attacks"]["modified_entropy"]["member_rate"])),
    ("model SHA-256", lambda stage: stage["model_sha256"][:8]),
)
PHASE_OF = {
    "original": "train",
    "unlearned": "forget",
    "recovered": "recover",
    "later": "later",
    "retrained": "retrain",
}
COST_ROWS = (
    ("rounds", lambda cost: str(cost["rounds"])),
    ("bytes down", lambda cost: _bytes(cost["bytes_down"])),
    ("bytes up", lambda cost: _bytes(cost["bytes_up"])),
    ("seconds", lambda cost: f"{cost['seconds']:.1f}"),
)
ERROR_ROWS = (("codec error, down", "compression_error_down"), ("codec error, up", "compression_error_up"))


def print_report(document: dict[str, Any]) -> None:
    """Print the stages of a run side by side, what each cost, the ratios to retraining and the verdict."""
    console, config = Console(), document["config"]
    models = config["models"] or config["model"]
    named = f"{models} with {config['mentee']}" if config["mentee"] else models
    title = f"{config['dataset']}, {named}: {_asked(document)} forgotten by {config['method']}"
    table = Table(title=f"{title} ({document['samples']['forget']} samples)", title_justify="left", box=SIMPLE_HEAD)
    stages = {name: stage for name, stage in document["stages"].items() if stage and name in PHASE_OF}
    table.add_column("")
    for name in stages:
        table.add_column(name, justify="right")
    for label, shown in STAGE_ROWS:
        table.add_row(label, *(shown(stage) for stage in stages.values()))
    table.add_section()
    costs = [document["phases"][PHASE_OF[name]] for name in stages]
    for label, shown in COST_ROWS:
        table.add_row(label, *(shown(cost) if cost else "-" for cost in costs))
    for label, name in ERROR_ROWS:
        errors = [(cost or {}).get(name) for cost in costs]
        if any(error is not None for error in errors):
            table.add_row(label, *("-" if error is None else f"{error:.2g}" for error in errors))
    console.print(table)
    ratios = document["ratios_to_retraining"]
    if ratios:
        console.print(
            "Forgetting and recovery cost, as shares of retraining: "
            + ", ".join(f"{name.replace('_', ' ')} {share:.2f}" for name, share in ratios.items())
        )
    requests = document["requests"]
    if len(requests) > 1:
        _print_requests(console, requests)
    for number, request in enumerate(requests):
        _print_guard(console, nth("forget", number), request.get("guard"))  # none in reports from before it
        phase = nth("recover", number)
        if phase in document["ended"]:
            console.print(f"{phase.capitalize()} stopped: {document['ended'][phase]['reason']}", highlight=False)
    _print_devices(console, stages)
    for line in leak_lines(document.get("leak") or {}):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if document["verdict"]:
        print_verdict(console, document["verdict"])
    if document.get("memorised"):  # none in reports from before it
        console.print(memorised_line(document["memorised"]), soft_wrap=True, highlight=False)


def memorised_line(found: dict[str, Any]) -> str:
    """Return how much of what the model had memorised remains.

    >>> group = {"samples": 20, "before": 0.97, "retrained": 0.1, "candidate": 0.6}
    >>> left = {"value": 0.57, "low": -0.2, "high": 0.3}
    >>> memorised_line({"memorised": group, "others": {"samples": 80}, "left": left})
    'Memorised: 20 of 100 samples; 57 % of that remains; a retrained model: -20 to 30 % (not part of the verdict)'
    """
    group, held = found["memorised"], found["left"]
    text = f"Memorised: {group['samples']} of {group['samples'] + found['others']['samples']} samples"
    if held is None:
        return text
    shares = [round(100 * held[name]) for name in ("value", "low", "high")]
    interval = f"a retrained model: {shares[1]} to {shares[2]} %"
    return f"{text}; {shares[0]} % of that remains; {interval} (not part of the verdict)"


def print_verdict(console: Console, verdict: dict[str, Any]) -> None:
    """Print the verdict, and by which test, with what control and power, it was reached."""
    console.print(f"Verdict: [bold]{verdict['outcome']}[/bold]: {verdict['reason']}", soft_wrap=True, highlight=False)
    if not verdict.get("measures"):  # not tested; or a report of an earlier version, by another test
        return
    test, found = verdict["test"], []
    for name, held in verdict["measures"].items():
        control = (verdict["control"] or {}).get(name)
        beside = f", control {control['value']:.3f}" if control else ""
        inside = f"{held['low']:.3f}..{held['high']:.3f}"
        found.append(f"{name} {held['value']:.3f}{beside} in {inside}? {'yes' if held['inside'] else 'no'}")
    power = ", ".join(f"{name} {held['smallest_gap']:.3f}" for name, held in verdict["measures"].items())
    about = f"{test['name']}, level {test['level']:g}, {test['references']} references; control: {test['control']}"
    for line in (about, *found, f"Smallest gaps found in {100 * test['power']:.0f} % of cases: {power}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _print_guard(console: Console, phase: str, guard: dict[str, Any] | None) -> None:
    """Print what the guard decided about a method's model, and why, if it looked at one."""
    if guard:
        found = guard["off"] or ("within its bounds" if guard["findings"] else "nothing to compare with")
        console.print(f"Guard, {phase}: [bold]{guard['verdict']}[/bold]: {found}", soft_wrap=True, highlight=False)
        if guard.get("warning"):  # none in reports from before it
            console.print(f"Warning, {phase}: {guard['warning']}", soft_wrap=True, highlight=False, markup=False)


def _print_devices(console: Console, stages: dict[str, Any]) -> None:
    """Print the metrics of the personalised models, where devices have such."""
    last = next((stage for stage in reversed(list(stages)) if "devices" in stages[stage]), None)
    if last is None:
        return
    named = [stage for stage in stages if "devices" in stages[stage]]
    table = Table(title="Test accuracy of the personalised models", title_justify="left")
    for column in ("device", "model", *named):
        table.add_column(column, justify="left" if column == "model" else "right")
    for client, own in stages[last]["devices"].items():
        shares = (stages[stage]["devices"].get(client) for stage in named)
        table.add_row(client, own["model"], *(_percent(said["test_accuracy"]) if said else "-" for said in shares))
    console.print(table)


def _asked(document: dict[str, Any]) -> str:
    """Say what was to be forgotten."""
    config = document["config"]
    if config["granularity"] == "class":
        return f"class {config['forget-class']}"
    some = "samples of " if config["granularity"] == "sample" else ""
    several = "clients" if {",", ";"} & set(config["forget"]) else "client"
    return f"{some}{several} {config['forget']} of {config['clients']}"


def _print_requests(console: Console, requests: list[dict[str, Any]]) -> None:
    """Print what each model knows of each request's samples."""
    table = Table(title="Forget accuracy of each request", title_justify="left")
    table.add_column("")
    for number, request in enumerate(requests):
        clients = ", ".join(map(str, request["clients"]))
        table.add_column(f"request {number + 1} (client {clients})", justify="right")
    for stage in requests[0]["forget_accuracy"]:
        table.add_row(stage, *(_percent(request["forget_accuracy"][stage]) for request in requests))
    console.print(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bytes(count: int) -> str:
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
