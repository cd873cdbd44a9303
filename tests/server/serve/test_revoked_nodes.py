"""A device whose key is revoked is let in by Flower no more: a real SuperLink, registered and unregistered nodes."""

import sys
from typing import Any

import pytest

from fedquit.client.requests.keys import new_key, public_der
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.serve.serve import Run
from fedquit.server.serve.superlink import Flower


@pytest.mark.skipif(sys.platform != "linux", reason="SuperLinks are tried on Linux")
def test_flower_lets_revoked_and_replaced_keys_in_no_more_and_new_ones_in(
    flower: Flower, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(flower.federation.ledger_url(flower.folder), seal=read_seal(flower.folder / "receipts.key"))
    told = list[Any]()
    monkeypatch.setattr(Flower, "runs", lambda _self: {1: "running"})
    monkeypatch.setattr("fedquit.server.serve.serve.LOOK_EVERY", 0.0)
    run = Run(flower, flower.folder, told.append)
    run.tend()
    assert len(nodes(flower)) == 2
    ledger.revoke(1)
    run.tend()
    left = nodes(flower)
    assert len(left) == 1, told
    Run(flower, flower.folder, told.append).tend()  # a server that starts anew lets it in no more either
    assert nodes(flower) == left
    assert told == []
    ledger.rotate(0, public_der(new_key()))
    run.tend()
    replaced = nodes(flower)
    assert len(replaced) == 1
    assert replaced.isdisjoint(left)  # the new key's node, and not the old one's
    ledger.rotate(1, public_der(new_key()))  # a revoked device comes back
    run.tend()
    assert len(nodes(flower)) == 2
    assert told == []
    ledger.close()


def nodes(flower: Flower) -> set[str]:
    found = flower._json("supernode", "list", "fedquit")["nodes"]
    return {node["node-id"] for node in found if node["status"] != "unregistered"}
