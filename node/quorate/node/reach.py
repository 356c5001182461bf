"""Whether a node answers at its address.

Owns one question, asked over TLS: is there anybody at the peer address of a node who holds that
node's certificate? Nothing is said to it beyond the handshake. Who asks wants to know that a node
is gone. So whoever takes the connection, and does not show that it is somebody else, is there: one
that hangs, or says something else than TLS. But a name that cannot be resolved, and a connection
that is refused or not made in time, are taken for a machine that is gone: one that is switched off
gives exactly that, and so does one that only this machine cannot reach. The answer is worth what
the network between is worth; docs/recovery.md says where to ask.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from quorate.core.ids import dns_name
from quorate.node.config import NodeConfig

TIMEOUT_S: Final = 3.0
_PROTOCOL: Final = "h2"
_ANOTHERS: Final = frozenset({2, 18, 19, 20, 21, 62})
"""OpenSSL's codes (x509_vfy.h) for a certificate that is another's: its issuer is not the domain's
authority (2, 20, 21), it vouches for itself (18, 19), or it names somebody else (62). One that has
expired, or is not valid yet, is none of them: a node that runs with it keeps its links."""


def answers(config: NodeConfig, node_id: str, address: str, authorities: str) -> bool:
    """Whether the node `node_id` is there, as seen from the machine of the node of `config`.

    authorities: PEM of its domain's CAs; of none that can be used, whoever takes the connection is
    there. address: where its domain says that it listens; the
    configuration's `peers` win over it. False: somebody else is there, or nobody as far as can be
    seen from here.
    """
    host, _, port = config.peers.get(node_id, address).rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not _may_verify(context, authorities):
        # Nobody can show that it is somebody else, then.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(config.tls.certificate, config.tls.private_key)
    context.set_alpn_protocols([_PROTOCOL])
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, place in places:
        # Wrapped before it is connected: the wrapper of a link that is reset meanwhile stays open.
        with context.wrap_socket(
            socket.socket(family, kind, protocol),
            server_hostname=dns_name(node_id),
            do_handshake_on_connect=False,
        ) as link:
            link.settimeout(TIMEOUT_S)
            try:
                link.connect(place)
            except OSError:
                continue
            return _shows_its_certificate(link)
    return False


def _may_verify(context: ssl.SSLContext, authorities: str) -> bool:
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError):  # one that OpenSSL cannot read; none at all
        return False
    return True


def _shows_its_certificate(link: ssl.SSLSocket) -> bool:
    try:
        link.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_code not in _ANOTHERS
    except (ssl.SSLEOFError, ConnectionError):
        return False  # closed at once: whoever forwards to it finds nobody
    except OSError:
        return True  # it is silent, or says something else: a node that is ill, perhaps
    return True
