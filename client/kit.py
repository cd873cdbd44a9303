"""A kit: the folder with which a device or an operator belongs to a federation, made by `fedquit provision`.

device.toml     which federation, where it is reached, who this is, where its data lies
ca.crt          the certificate that the federation's servers are checked against
node.key        this member's private key (NIST P-384, OpenSSH format as Flower wants it), mode 0600
node.pub        its public key
receipts.pub    the key that the federation's receipts are signed with (Ed25519)
record.db       a device's own record of what it trained on and what it retired; it makes that itself
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from fedquit.errors import InputError, unknown
from fedquit.files import load_settings_file

FILE = "device.toml"
KINDS: Mapping[str, tuple[type, str]] = {
    "number": (int, "a number"),
    "approve": (list, "a list of digests"),
    "bounds": (dict, "a table"),
}
"""What each key of the file holds that holds no text."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What a kit says; the paths of its other files follow from its folder.

    Attributes:
        folder: where the kit is.
        federation: name of the federation.
        superlink: host:port that devices reach the SuperLink's fleet API at, with TLS.
        forget: host:port of the forget service.
        name: of the member.
        number: of the member in the ledger.
        role: "device" or "operator".
        data: folder, .npz or Parquet file of the device's samples; relative paths begin in the kit's folder.
        holdout: such a file of samples that the device never trains on; "" for none.
        record: file of the device's own record.
        approve: digests of code that a server may have the device run, besides fedquit's own app (`approved_code`).
        bounds: what the server may set, as `DeviceBounds` reads it.
    """

    folder: Path
    federation: str
    superlink: str
    forget: str
    name: str
    number: int
    role: str = "device"
    data: str = ""
    holdout: str = ""
    record: str = "record.db"
    approve: Sequence[str] = ()
    bounds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the kit in `folder`.

        Raises:
            InputError: there is none, or it says something that cannot be.
        """
        if not (folder / FILE).is_file():
            raise InputError(f"{folder} is not a kit: it has no {FILE}; `fedquit provision` makes kits")
        document = load_settings_file(folder / FILE)
        known = [each.name for each in fields(cls) if each.name != "folder"]
        for key, value in document.items():
            if key not in known:
                raise unknown(f"key in {folder / FILE}", key, known)
            kind, wanted = KINDS.get(key, (str, "a text"))
            if type(value) is not kind:
                raise InputError(f"{folder / FILE}: {key} is {value!r}, not {wanted}")
        missing = [key for key in ("federation", "superlink", "forget", "name", "number") if key not in document]
        if missing:
            raise InputError(f"{folder / FILE} does not say: {', '.join(missing)}")
        if document.get("role", "device") not in ("device", "operator"):
            raise InputError(f"{folder / FILE}: role is {document['role']!r}; it must be device or operator")
        return cls(folder=folder, **document)

    def path(self, name: str) -> Path:
        """Return the path of a file that the kit names, such as `data`, or has, such as "node.key"."""
        return self.folder / Path(name).expanduser()

    @property
    def key_file(self) -> Path:
        """The member's private key."""
        return self.folder / "node.key"

    @property
    def authority_file(self) -> Path:
        """The certificate to check servers against."""
        return self.folder / "ca.crt"

    @property
    def receipts_key_file(self) -> Path:
        """The public key of the federation's receipts."""
        return self.folder / "receipts.pub"
