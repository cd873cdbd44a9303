"""Keys and certificates of a federation: its own authority, and the server certificate that it signs.

Keys are NIST P-384, which Flower asks of nodes; receipts are signed with Ed25519.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = datetime.timedelta(days=365)
AUTHORITY_YEARS, SERVER_YEARS = 10, 2
LEEWAY = datetime.timedelta(days=1)  # for devices whose clocks are behind
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the SuperLink's own executor dials back


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """Return the certificate as a PEM file has it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the private key as a PEM file has it, without a password."""
        return private_pem(self.key)


def make_authority(federation: str, now: datetime.datetime) -> Signed:
    """Return a new authority, which signs itself.

    >>> made = make_authority("clinics", datetime.datetime(2026, 1, 1))
    >>> made.certificate.subject.rfc4514_string()
    'CN=fedquit authority of clinics'
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _named(f"fedquit authority of {federation}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _begun(name, name, key, now, now + AUTHORITY_YEARS * YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    return Signed(certificate, key)


def make_server_certificate(authority: Signed, hosts: Iterable[str], now: datetime.datetime) -> Signed:
    """Return a certificate for a server that is reached as each of `hosts` and on this machine.

    It holds for two years, and no longer than the authority does.
    """
    key, names = ec.generate_private_key(ec.SECP384R1()), list(dict.fromkeys([*hosts, *LOOPBACK]))
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    ends = min(now + SERVER_YEARS * YEAR, authority.certificate.not_valid_after_utc)
    certificate = (
        _begun(_named(names[0]), authority.certificate.subject, key, now, ends)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority_id, critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return Signed(certificate, key)


def hosts_of(certificate: x509.Certificate) -> set[str]:
    """Return the names and addresses that a certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return addresses | set(names.get_values_for_type(x509.DNSName))


def private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """Return a private key as a PEM file has it, without a password."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def public_pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    """Return a public key as a PEM file has it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def der_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as the ledger has it: DER of its SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def node_key_files(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    """Return a node's private and public key file, in the OpenSSH format that Flower reads."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
