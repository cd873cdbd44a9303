"""The command line: finds a command's module only when that command is called, so that help comes at once.

Exit codes: 0 done, 1 refused or failed, 2 cannot reach or not allowed, 3 timed out, 4 bad arguments, 5 our bug.
"""

import json
import sys
import traceback
from importlib import import_module
from typing import NoReturn

import click

from fedquit import __version__
from fedquit.errors import FedquitError, FullDiskError
from fedquit.extras import missing_extra

# name -> (where the command is, one line of help)
COMMANDS = {
    "simulate": (
        "fedquit.simulations.simulate.command:simulate",
        "Train, forget, recover and compare with retraining, on this machine.",
    ),
    "report": ("fedquit.simulations.simulate.command:report", "Show the report of a finished run again."),
    "summary": (
        "fedquit.simulations.simulate.command:summary",
        "Show several finished runs in one table, with mean and spread.",
    ),
    "costs": (
        "fedquit.simulations.costs.command:costs",
        "Show what a run cost, compared with retraining; export its cost log.",
    ),
    "plan": (
        "fedquit.simulations.costs.plan.command:plan",
        "Estimate what a request would cost by each method, compared with retraining.",
    ),
    "compare": (
        "fedquit.simulations.compare.command:compare",
        "Compare methods over targets and seeds, at equal budgets.",
    ),
    "configs": (
        "fedquit.simulations.configs.command:configs",
        "List the configs that simulate and compare know by name, or print one.",
    ),
    "shadows": (
        "fedquit.simulations.audit.shadows_command:shadows",
        "Train the shadow models of a run, for attacks on single samples.",
    ),
    "audit": ("fedquit.simulations.audit.command:audit", "Evaluate a model file against retrained models."),
    "provision": (
        "fedquit.server.provision.command:provision",
        "Make a federation ready: certificates, keys, a kit for each device.",
    ),
    "doctor": ("fedquit.server.provision.doctor_command:doctor", "Check a device or a server before it starts."),
    "join": ("fedquit.client.device.command:join", "Run a device in its federation."),
    "leave": (
        "fedquit.client.device.command:leave",
        "Ask, in a device's next reply, that it or some samples be forgotten.",
    ),
    "record": ("fedquit.client.device.record.command:record", "Show what a device trained on, and what it retired."),
    "rotate": ("fedquit.client.requests.new_key_command:rotate", "Make a new key for a member, in its kit."),
    "verify": ("fedquit.client.receipts.command:verify", "Check a receipt, offline."),
    "serve": ("fedquit.server.serve.command:serve", "Run a server that trains, forgets and recovers."),
    "backup": (
        "fedquit.server.provision.backup.command:backup",
        "Back up a server into one file, also while it serves.",
    ),
    "restore": (
        "fedquit.server.provision.backup.command:restore",
        "Restore a server from its backup into a new folder.",
    ),
    "ledger": ("fedquit.server.ledger.command:ledger", "Check, read and export the ledger of a server."),
    "member": (
        "fedquit.server.ledger.member_command:member",
        "List a federation's members, revoke or replace their keys.",
    ),
    "forget": ("fedquit.client.requests.command:forget", "Ask that a device's data, or some of it, be forgotten."),
    "status": ("fedquit.client.requests.command:status", "Show where a request is now."),
    "watch": ("fedquit.client.requests.command:watch", "Show each state of a request as it comes."),
    "receipt": ("fedquit.client.requests.command:receipt", "Fetch the signed receipt of a request that is done."),
    "requests": (
        "fedquit.client.requests.command:requests",
        "List the requests of a device, or of all for an operator.",
    ),
    "codecs": ("fedquit.simulations.listings.command:codecs", "List the codecs that compress models."),
    "objectives": (
        "fedquit.simulations.listings.command:objectives",
        "List what devices can minimise when they train.",
    ),
    "strategies": ("fedquit.simulations.listings.command:strategies", "List the aggregation strategies."),
    "methods": ("fedquit.simulations.listings.command:methods", "List the methods of forgetting and what each needs."),
}
RESUMES = ("simulate", "compare")
"""Commands that go on with `--resume` where they were stopped; others are given again as they were."""

PEOPLE = {
    "For researchers, on one machine": (
        *("simulate", "compare", "configs", "report", "summary", "costs", "plan", "shadows", "audit"),
        *("methods", "objectives", "strategies", "codecs"),
    ),
    "For operators of a server": (
        *("provision", "doctor", "serve", "requests", "member", "ledger"),
        *("backup", "restore"),
    ),
    "For owners of a device": ("join", "forget", "leave", "status", "watch", "receipt", "verify", "record", "rotate"),
}
"""Who a command is for, in the order of the help; some serve several, and stand with those who need them most."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands, in the order of `PEOPLE`."""
        del ctx
        return [name for names in PEOPLE.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the people they are for, without importing them; the columns of all are aligned."""
        del ctx
        width = max(map(len, COMMANDS))
        for people, names in PEOPLE.items():
            with formatter.section(people):
                formatter.write_dl([(name.ljust(width), COMMANDS[name][1]) for name in names])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fedquit")
def fedquit() -> None:
    """Federated learning that can forget.

    Start with `fedquit simulate`: it trains a small federation on real data, has a client forgotten, and shows
    how that compares with a model trained without the client.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    as_json = "--json" in sys.argv[1:]
    again = "continue with --resume" if sys.argv[1:2] and sys.argv[1] in RESUMES else "do the same again"
    try:
        code = fedquit.main(standalone_mode=False) or 0
    except FullDiskError as error:
        code = _fail(error.told(again), error.exit_code, as_json)
    except FedquitError as error:
        code = _fail(str(error), error.exit_code, as_json, getattr(error, "code", ""))
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        code = _fail(error.format_message().rstrip(".") + where, 4, as_json)
    except (KeyboardInterrupt, click.Abort):
        code = _fail(f"stopped; what was finished is kept: {again}", 1, as_json)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error.name)):
            code = _fail(missing, 4, as_json)
        else:
            traceback.print_exc()
            code = _fail("this is a bug in fedquit; please report it with the lines above", 5, as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int, as_json: bool, refusal: str = "") -> int:
    """Say what went wrong in one line, and with --json also as a document."""
    print(f"fedquit: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    if as_json:
        print(json.dumps({"error": text, "exit_code": code, **({"code": refusal} if refusal else {})}))  # noqa: T201
    return code
