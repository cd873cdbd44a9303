"""Who the nodes of a deployment are: their keys say so, whatever Flower numbers them."""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.flower_internals import NodeInfo, fingerprint_of
from fedquit.strategies.grid.node_identity import Member, recognise


class Registered(InProcessGrid):
    """A grid of these nodes."""

    nodes: tuple[NodeInfo, ...] = ()

    def get_nodes(self) -> tuple[NodeInfo, ...]:
        return self.nodes


def node(number: int, key: ec.EllipticCurvePrivateKey | None) -> NodeInfo:
    if key is None:
        return NodeInfo(node_id=number)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return NodeInfo(node_id=number, public_key=public)


def test_nodes_are_known_by_their_keys_and_strangers_are_named() -> None:
    one, two, stranger = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
    grid = Registered(1, {})
    grid.nodes = (node(70, two), node(71, stranger), node(72, None), node(73, one))
    enrolled = {fingerprint_of(node(0, one)): Member(0), fingerprint_of(node(0, two)): Member(5)}
    present = recognise(grid, enrolled)
    assert present.members == {70: Member(5), 73: Member(0)}
    assert present.strangers == {fingerprint_of(node(0, stranger)), ""}


def test_a_key_that_registered_again_is_one_member_at_its_newest_node() -> None:
    key, grid = ec.generate_private_key(ec.SECP384R1()), Registered(1, {})
    grid.nodes = (node(90, key), node(80, key))
    assert recognise(grid, {fingerprint_of(node(0, key)): Member(3)}).members == {90: Member(3)}
