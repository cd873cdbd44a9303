"""A folder, a ledger and kits of 0.1.0 go on with this version."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from fedquit.client.kit import Kit
from fedquit.client.requests.keys import read_private
from fedquit.server.ledger import Ledger
from tests.fixtures.v0_1_0.unpack import LEFT, PENDING, REVOKED, old_deployment

Run = Callable[..., tuple[int, str, str]]


def test_a_deployment_of_0_1_0_goes_on_where_it_was(tmp_path: Path) -> None:
    made = old_deployment(tmp_path)
    with made.ledger() as ledger:  # migrates
        before, pending = ledger.events(), ledger.next_asked()
        rounds = len(ledger.steps(phase="train"))
        assert ledger.check_chain() == []
        assert [ledger.member(n).status for n in (LEFT, PENDING, REVOKED)] == ["withdrawn", "active", "revoked"]
    assert pending is not None
    assert pending.subject == PENDING
    made.run(made.grid(), rounds=rounds + 1)
    with made.ledger() as ledger:
        assert ledger.request(pending.id).status in ("done", "unrecovered")
        assert ledger.events()[: len(before)] == before  # the log goes on, and what it said it says
        assert ledger.check_chain() == []


def test_receipts_and_records_of_0_1_0_are_read(tmp_path: Path, run: Run) -> None:
    made = old_deployment(tmp_path)
    with contextlib.closing(sqlite3.connect(made.server / "ledger.db")) as connection:
        receipts = [row[0] for row in connection.execute("SELECT receipt FROM requests WHERE receipt IS NOT NULL")]
    assert len(receipts) == 2
    for number, receipt in enumerate(receipts):
        (tmp_path / f"{number}.json").write_bytes(receipt)
        assert run("verify", tmp_path / f"{number}.json", "--kit", made.folder / "kits" / "east")[0] == 0
    for kit in made.kits():
        assert read_private(Kit.read(kit.folder).key_file).curve.name == "secp384r1"
        code, out, _ = run("record", kit.folder, "--json")
        assert (code, len(json.loads(out)["rounds"]) > 0) == (0, True)


def test_a_reader_of_an_old_ledger_says_how_it_is_brought_up_to_date(tmp_path: Path, run: Run) -> None:
    made = old_deployment(tmp_path)
    code, _, err = run("ledger", "check", made.server)
    assert (code, "of revision 0001; open it with 'fedquit serve' once" in err) == (1, True)


def test_provision_again_leaves_a_deployment_of_0_1_0_as_it_is(tmp_path: Path, run: Run) -> None:
    made = old_deployment(tmp_path)
    kept = ("server.pem", "server.key", "ca.crt", "receipts.key")
    before = {name: (made.server / name).read_bytes() for name in kept}
    told = (made.server / "server.toml").read_text()
    names = [kit.name for kit in made.kits()]
    (tmp_path / "federation.toml").write_text(told + "".join(f'[[device]]\nname = "{n}"\n' for n in [*names, "new"]))
    shutil.rmtree(made.folder / "authority")
    code, out, err = run("provision", tmp_path / "federation.toml", "--out", made.folder, "--json")
    assert code == 0, err
    assert [member["name"] for member in json.loads(out)["members"] if member["new"]] == ["new"]
    assert {name: (made.server / name).read_bytes() for name in kept} == before
    ledger = Ledger.open(made.federation.ledger_url(made.server), write=False)
    assert ledger.check_chain() == []
    ledger.close()
