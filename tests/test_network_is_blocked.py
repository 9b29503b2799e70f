# SPDX-License-Identifier: MIT
import socket

import pytest


def test_other_machines_are_out_of_reach_and_this_one_is_not():
    with pytest.raises(RuntimeError, match="192.0.2.1"), socket.socket() as one:
        one.connect(("192.0.2.1", 80))  # an address for documentation, RFC 5737
    with pytest.raises(RuntimeError, match="example.org"):
        socket.create_connection(("example.org", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
