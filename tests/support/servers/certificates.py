"""A private certificate authority, and certificates of servers and clients from it or from another authority."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


class Authority:
    """Issues certificates for a day.

    Args:
        folder: where its files are.
        name: its name in the certificates and in file names.

    Attributes:
        bundle: file with its own certificate, by which clients trust its certificates.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._known = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            self._begun(self._name, self._key.public_key(), datetime.now(UTC) - DAY, datetime.now(UTC) + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(self._known, critical=False)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / f"{name}.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self, *names: str, ended: bool = False, asks: Authority | None = None, early: bool = False
    ) -> ssl.SSLContext:
        """Return the TLS context of a server.

        Args:
            names: host names and addresses that the certificate is for.
            ended: its time is over.
            asks: it lets in only clients with a certificate of this authority.
            early: a client that is not let in hears of it while it connects (TLS 1.2), not at its first
                read (TLS 1.3).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self._issue("-".join(("server", *names, "ended" * ended)), names, ended=ended)
        )
        if asks is not None:
            context.load_verify_locations(asks.bundle)
            context.verify_mode = ssl.CERT_REQUIRED
        if early:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def client(self) -> Path:
        """Return a file with a client's certificate and its key."""
        return self._issue("client", ("client",), is_client=True)

    def _issue(
        self, file: str, names: tuple[str, ...], *, ended: bool = False, is_client: bool = False
    ) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        began, ends = (now - 2 * DAY, now - DAY) if ended else (now - DAY, now + DAY)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        use = ExtendedKeyUsageOID.CLIENT_AUTH if is_client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            self._begun(subject, key.public_key(), began, ends)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._known), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{file}.pem"
        written = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + written)
        return path

    def _begun(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, began: datetime, ends: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(ends)
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
