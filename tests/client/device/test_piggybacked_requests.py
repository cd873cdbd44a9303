"""A request to be forgotten that a device sends in a reply: signed, sent again, given up, served."""

from typing import Any

import filelock
import pytest
from click.testing import CliRunner

from fedquit.client.device.command import leave
from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.client.device.record import Record, opened, owners_turn
from fedquit.client.device.record.record_rows import SIGNINGS
from fedquit.client.kit import Kit
from fedquit.client.requests.keys import public_der, read_private
from fedquit.client.requests.signed_request import is_from, read_ask
from fedquit.errors import FedquitError
from tests.client.device.kit_messages import committed, forget, ridden, rows, said, send


def put(kit: Kit, *numbers: int) -> None:
    with opened(kit.path(kit.record)) as record:
        record.put("sample" if numbers else "client", rows(kit, *numbers), "please")


def test_a_pending_request_is_piggybacked_signed_with_the_devices_key(kit: Kit) -> None:
    assert "ask" not in send(kit, "train").config_records
    put(kit, 1, 5)
    signed = ridden(send(kit, "train"))
    assert is_from(signed, public_der(read_private(kit.key_file)))
    ask = read_ask(signed.ask)
    assert (ask.federation, ask.granularity, ask.samples_count, ask.note) == ("clinics", "sample", 2, "please")
    assert ask.samples_digest == committed(kit, *rows(kit, 1, 5)) != set_digest(rows(kit, 1, 5))


def test_a_piggybacked_request_keeps_its_bytes_until_acknowledged(kit: Kit) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert ridden(send(kit, "train")) == first
    assert "ask" not in send(kit, "train", taken=first.id).config_records


def test_an_expired_request_is_signed_again_and_either_can_be_served(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    with opened(kit.path(kit.record)) as record, record.database.writing() as cursor:
        cursor.execute("UPDATE asks SET signed_at = signed_at - 600")
    second = ridden(send(kit, "train"))
    assert first.id != second.id
    for signed in (first, second):
        assert said(forget(kit, signed.id))["num-examples"] == 1


def test_a_request_is_piggybacked_a_limited_number_of_times(kit: Kit) -> None:
    put(kit, 1)
    for _ in range(SIGNINGS):
        assert "ask" in send(kit, "train").config_records
        with opened(kit.path(kit.record)) as record, record.database.writing() as cursor:
            cursor.execute("UPDATE asks SET signed_at = signed_at - 600")
    assert "ask" not in send(kit, "train").config_records
    put(kit, 5)
    assert "ask" in send(kit, "train").config_records


@pytest.mark.parametrize(("code", "again"), [("nothing-contributed", False), ("quota", True), ("stale", True)])
def test_a_refused_request_is_piggybacked_again_only_if_retrying_can_help(kit: Kit, code: str, again: bool) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert ("ask" in send(kit, "train", answers=f"{first.id}:{code}").config_records) is again
    with opened(kit.path(kit.record)) as record:
        assert [ask.refused for ask in record.asks()] == [code]


def test_a_request_accepted_under_another_id_is_not_piggybacked_again(kit: Kit) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert "ask" not in send(kit, "train", answers=f"junk,{'0' * 64}:quota,{first.id}:taken").config_records
    with opened(kit.path(kit.record)) as record:
        assert record.asks() == []


def test_a_served_request_is_not_piggybacked_again(kit: Kit) -> None:
    put(kit)
    signed = ridden(send(kit, "train"))
    reply = forget(kit, signed.id)
    assert said(reply)["num-examples"] == 12
    assert "ask" not in reply.config_records
    with opened(kit.path(kit.record)) as record:
        assert record.asks() == []


def test_an_ask_that_goes_while_it_is_signed_loses_no_trained_reply(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kit, 1)

    def withdrawn(self: Record, *args: Any) -> None:
        self.withdraw()
        real(self, *args)

    real = Record.signed
    monkeypatch.setattr(Record, "signed", withdrawn)
    reply = send(kit, "train")
    assert said(reply)["num-examples"] == 12
    assert "ask" not in reply.config_records


def test_nothing_is_withdrawn_while_the_device_carries_out_a_message(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kit, 1)
    monkeypatch.setattr(owners_turn, "WAIT", 0.01)
    with (
        filelock.FileLock(f"{kit.path(kit.record)}.lock"),
        pytest.raises(FedquitError, match="has been at work for 0 s; try again later"),
    ):
        CliRunner().invoke(leave, [str(kit.folder), "--withdraw"], standalone_mode=False, catch_exceptions=False)
    with opened(kit.path(kit.record)) as record:
        assert len(record.asks()) == 1
