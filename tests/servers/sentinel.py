"""A master, its replica and three Sentinels for tests, and the failover between the two."""

import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import redis

from service import embedded
from tests.servers.redis import RedisServer, wait_until

SERVICE = "shop"
SENTINELS = 3
DOWN_MS = 2000


class Sentinels:
    """All five servers.

    Attributes:
        servers: The two servers; which of them is the master changes.
        url: Of the master, by way of the Sentinels.
    """

    def __init__(self, program: Path) -> None:
        self._program = program
        self._home = Path(tempfile.mkdtemp(prefix="sentinel-"))
        master = RedisServer(program)
        self.servers = [master, RedisServer(program, replicaof=f"127.0.0.1 {master.port}")]
        self._reserved = [socket.create_server(("127.0.0.1", 0)) for _ in range(SENTINELS)]
        self.ports = [each.getsockname()[1] for each in self._reserved]
        self.processes: list[subprocess.Popen[bytes]] = []
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            replica = self.servers[1].admin
            wait_until(
                lambda: replica.info("replication").get("master_link_status") == "up",
                "the replica follows",
            )
            for number in range(SENTINELS):
                self._start(number)
            wait_until(self._complete, "every Sentinel knows the others and the replica")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, number: int) -> None:
        directory = self._home / str(number)
        directory.mkdir()
        config = directory / "sentinel.conf"
        self._reserved[number].close()
        config.write_text(
            f"port {self.ports[number]}\n"
            "bind 127.0.0.1\n"
            f"dir {directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        with (directory / "output").open("wb") as output:
            command = [str(self._program), str(config), "--sentinel"]
            self.processes.append(embedded.spawn(command, output, signal.SIGKILL))

    def _ask(self, number: int) -> dict[str, object]:
        with redis.Redis(port=self.ports[number]) as client:
            found: dict[str, object] = client.sentinel_master(SERVICE)
            return found

    def _complete(self) -> bool:
        with suppress(redis.RedisError):
            seen = [self._ask(number) for number in range(SENTINELS)]
            return all(
                each["num-other-sentinels"] == SENTINELS - 1 and each["num-slaves"] == 1
                for each in seen
            )
        return False

    @property
    def master(self) -> RedisServer:
        """The server that the Sentinels take for the master."""
        port = self._ask(0)["port"]
        return next(server for server in self.servers if server.port == port)

    def cut(self) -> None:
        """From now on nothing that is written to the master reaches the replica."""
        master = self.master.admin
        # A replica cannot come back without the password; who is here already may stay.
        master.config_set("requirepass", "not-for-the-replica")
        master.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")

    def fail_over(self) -> None:
        """Ends the master; returns when the replica has taken its place."""
        old = self.master
        (new,) = (server for server in self.servers if server is not old)
        old.stop()
        wait_until(lambda: self.master is new, "the Sentinels agree on the new master")
        wait_until(lambda: new.admin.info("replication")["role"] == "master", "it is one")

    def close(self) -> None:
        """End all servers; idempotent."""
        for process in self.processes:
            process.kill()
            process.wait()
        for each in (*self._reserved, *self.servers):
            each.close()
        shutil.rmtree(self._home, ignore_errors=True)
