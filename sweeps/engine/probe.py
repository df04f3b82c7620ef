"""Asks a Ray cluster for anything at all, as a process of its own: python -P probe.py ADDRESS"""

from __future__ import annotations

import socket
import sys
from typing import Any

CLIENT = "ray://"
CONNECT_SECONDS = 5.0
REFUSED = "AuthenticationError"
"""How an answer begins where the cluster does not take the token."""


def ask(address: str) -> None:
    """Return when the cluster has answered; the process that asks gets no more than so much time,
    since neither Ray nor a look-up of the host's name has a limit for all that it does."""
    if address != "auto":
        host, _, port = address.removeprefix(CLIENT).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    if address.startswith(CLIENT):
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import ray_client_pb2
        from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

        server = RayletDriverStub(init_grpc_channel(address.removeprefix(CLIENT)))
        messages: Any = ray_client_pb2
        ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
        server.ClusterInfo(ping, wait_for_ready=True)
        return
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    place = canonicalize_bootstrap_address(address)
    if place is None:
        raise ConnectionError("none runs on this machine")
    GcsClient(address=place).check_alive([])


def why(error: Exception) -> str:
    """Describe an error in a line."""
    name, text = type(error).__name__, str(error)
    if hasattr(error, "code"):  # of gRPC
        name, text = error.code().name, error.details()  # type: ignore[attr-defined]
    if name == "UNAUTHENTICATED":
        name = REFUSED
    return f"{name}: {' '.join(text.split())[:200]}"


if __name__ == "__main__":
    try:
        ask(sys.argv[1])
    except Exception as error:
        print(why(error))
        sys.exit(1)
