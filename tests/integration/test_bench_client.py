"""The load generator of the bench, against a server that does what it is told."""

import socket
import threading

from bench.client import tour


def test_a_tour_asks_every_path_as_often_and_times_each() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"

        def serve() -> None:
            for _ in range(10):
                connection, _ = listener.accept()
                with connection:
                    path = connection.recv(4096).split()[1]
                    connection.sendall(
                        head.replace(b"200 OK", b"503 No") if path == b"/b" else head
                    )

        server = threading.Thread(target=serve)
        server.start()
        found = tour([(port, "/a"), (port, "/b")], rate=200, seconds=0.0475)
        server.join()
    assert {path: load.requests for (_, path), load in found.items()} == {"/a": 5, "/b": 5}
    assert found[port, "/b"].statuses == {"503": 5}
    assert all(len(load.latencies) == 5 for load in found.values())
