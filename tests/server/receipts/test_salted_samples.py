"""Which samples were forgotten: who has the salt can show it, and nobody else can tell, not even from the samples."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.client.device.record import Mark, Record
from fedquit.client.kit import Kit
from fedquit.client.receipts import read_receipt
from fedquit.client.receipts.verify_receipt import receipts_key
from fedquit.client.requests.keys import read_private, sign
from fedquit.client.requests.signed_request import PLAIN, PREFIX, SALTED, Signed, read_ask
from tests.harness.rehearsal import Rehearsal, rehearse

Run = Callable[..., tuple[int, str, str]]
ASKER, ASKED = 1, slice(0, 3)


@dataclass
class Served:
    """A deployment in which a device had three of its samples forgotten."""

    rehearsal: Rehearsal
    kit: Kit
    held: tuple[bytes, ...]
    folder: Path
    receipt: Path

    def list_samples(self, *digests: bytes) -> Path:
        file = self.folder / "samples.txt"
        file.write_text("\n".join(each.hex() for each in digests))
        return file


def serve(folder: Path, ask: Callable[[Rehearsal, tuple[bytes, ...]], Signed]) -> Served:
    rehearsal = rehearse(folder / "made")
    rehearsal.run(rehearsal.grid(), rounds=2)
    held = rehearsal.digests(ASKER)  # which anybody with the same files computes too
    rehearsal.ask(ask(rehearsal, held[ASKED]))
    rehearsal.run(rehearsal.grid(), rounds=3)
    with rehearsal.ledger() as ledger:
        [request] = ledger.requests()
    assert request.status == "done"
    file = folder / "receipt.json"
    file.write_bytes(request.receipt or b"")
    return Served(rehearsal, rehearsal.kits()[ASKER], held, folder, file)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("salted"), lambda rehearsal, samples: rehearsal.signed(ASKER, samples))


def test_nothing_at_the_server_names_samples_to_who_has_their_bytes(served: Served) -> None:
    each = [served.rehearsal.digests(member) for member in range(len(served.rehearsal.kits()))]
    sets = [*each, served.held[ASKED], served.held[ASKED.stop :]]
    guesses = [digest for held in each for digest in held] + [bytes.fromhex(set_digest(those)) for those in sets]
    files = [file for file in served.rehearsal.server.rglob("*") if file.is_file()]
    assert any(file.name.endswith(".db") for file in files)
    for file in files:
        content = file.read_bytes()
        assert not [guess for guess in guesses if guess in content or guess.hex().encode() in content], file


def test_its_owner_shows_which_samples_a_receipt_is_about(served: Served, run: Run) -> None:
    mine = served.list_samples(*served.held[ASKED])
    code, out, err = run("verify", served.receipt, "--kit", served.kit.folder, "--samples", mine)
    assert (code, err) == (0, "")
    assert "forget 3 samples of" in out
    assert "(the given samples)" in out
    assert "The digest of the samples is salted" in out
    for others in (served.held[:2], served.held[:4], served.held[1:4]):
        code, _, err = run(
            "verify", served.receipt, "--kit", served.kit.folder, "--samples", served.list_samples(*others)
        )
        assert (code, "never asked about exactly these" in err) == (4, True)


def test_only_who_is_given_the_salt_can_check_which_samples_it_was(served: Served, run: Run) -> None:
    public = "verify", served.receipt, "--key", served.rehearsal.server / "receipts.pub"
    mine, other = served.list_samples(*served.held[ASKED]), served.rehearsal.kits()[0]
    code, _, err = run(*public, "--samples", mine)
    assert (code, "give the salt (--salt HEX)" in err) == (4, True)
    code, _, err = run(*public, "--samples", mine, "--salt", "ab" * 32)
    assert (code, "the receipt is not about these 3 samples" in err) == (1, True)
    assert run("verify", served.receipt, "--kit", other.folder, "--samples", mine)[0] == 4  # it has no salt for them

    [request] = json.loads(run("record", served.kit.folder, "--json")[1])["requests"]
    assert run(*public, "--samples", mine, "--salt", request["salt"])[0] == 0
    others = served.list_samples(*served.held[1:4])
    assert run(*public, "--samples", others, "--salt", request["salt"])[0] == 1


def test_a_salt_without_samples_or_a_name_without_a_kit_is_one_line(served: Served, run: Run) -> None:
    named = served.folder / "named.txt"
    named.write_text("scan-17.png")
    for options, said in (
        (["--salt", "ab" * 32], "list them with --samples FILE"),
        (["--samples", named], "'scan-17.png' in"),
        (["--samples", served.list_samples(served.held[0]), "--salt", "ab"], "--salt must have 64 hex digits"),
    ):
        code, _, err = run("verify", served.receipt, "--key", served.rehearsal.server / "receipts.pub", *options)
        assert (code, said in err, err.count("\n")) == (4, True, 1)


def of_first_version(rehearsal: Rehearsal, samples: tuple[bytes, ...]) -> Signed:
    """Return the ask that a device of fedquit 0.1.0 makes, marked in its record."""
    kit = rehearsal.kits()[ASKER]
    ask = read_ask(rehearsal.signed(ASKER, samples).ask)
    assert ask.version == SALTED
    ask.version, ask.samples_digest = PLAIN, set_digest(samples)
    exact = ask.SerializeToString()
    signed = Signed(exact, sign(read_private(kit.key_file), PREFIX + exact))
    with contextlib.closing(Record(kit.path(kit.record))) as record:
        record.mark(Mark(signed.id, "sample", samples))
    return signed


def test_an_ask_without_salt_is_served_and_its_receipt_says_what_it_tells(tmp_path: Path, run: Run) -> None:
    served = serve(tmp_path, of_first_version)
    receipt = read_receipt(served.receipt.read_bytes(), receipts_key(served.rehearsal.server / "receipts.pub"))
    assert "has the very bytes of the candidates" in " ".join(receipt.predicate["limits"])
    assert receipt.request["samples_digest"] == set_digest(served.held[ASKED])  # whoever has them confirms it
    mine, others = served.held[ASKED], served.held[1:4]
    for who in (["--kit", served.kit.folder], ["--key", served.rehearsal.server / "receipts.pub"]):
        assert run("verify", served.receipt, *who, "--samples", served.list_samples(*mine))[0] == 0
        assert run("verify", served.receipt, *who, "--samples", served.list_samples(*others))[0] == 1
