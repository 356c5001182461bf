"""What the members of the consensus benchmark and their driver both know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND_BYTES: Final = 200
TO_LEDGER: Final = b"L"
TO_NOTHING: Final = b"N"
_SPEC: Final = "member.json"


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One member. addresses: every member's, by its id. The directory holds the certificate, the
    key, and every member's CA certificate."""

    node_id: str
    addresses: dict[str, str]
    directory: Path

    def write(self, certificate: bytes, private_key: bytes, authorities: dict[str, bytes]) -> None:
        self.directory.mkdir(mode=0o700, parents=True)
        fields = {"node_id": self.node_id, "addresses": self.addresses}
        (self.directory / _SPEC).write_text(json.dumps(fields))
        (self.directory / "node.crt").write_bytes(certificate)
        (self.directory / "node.key").write_bytes(private_key)
        for node_id, authority in authorities.items():
            self._ca_file(node_id).write_bytes(authority)

    @classmethod
    def read(cls, directory: Path) -> MemberSpec:
        return cls(directory=directory, **json.loads((directory / _SPEC).read_text()))

    def certificate(self) -> bytes:
        return (self.directory / "node.crt").read_bytes()

    def private_key(self) -> bytes:
        return (self.directory / "node.key").read_bytes()

    def ca_of(self, node_id: str) -> bytes:
        return self._ca_file(node_id).read_bytes()

    def _ca_file(self, node_id: str) -> Path:
        return self.directory / f"ca-{list(self.addresses).index(node_id)}.crt"
