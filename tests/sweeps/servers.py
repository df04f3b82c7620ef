"""Servers as a group of people runs them: MLflow on PostgreSQL, with artifacts on S3.

All of them listen on loopback, with passwords of their own, and end with the test. PostgreSQL and
moto, which speaks S3's protocol, need not be installed: `missing_services` says what is not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.processes import environment, free_port, wait_for

_POSTGRES = Path("/usr/lib/postgresql")
"""Where Debian has its programs, by version."""
_POSTGRES_USER = "postgres"
_LONGEST = 60.0
"""Seconds for a server to start or to end."""


def missing_services() -> str:
    """What has to be installed before MLflow can run on PostgreSQL and S3, "" for nothing."""
    packages = {"psycopg2": "psycopg2-binary", "boto3": "boto3", "moto": "'moto[s3]'"}
    lacking = [name for module, name in packages.items() if not _is_installed(module)]
    found = [f"pip install {' '.join(lacking)}"] if lacking else []
    if not _has_postgres():
        found.append("apt-get install --no-install-recommends postgresql")
    return " and ".join(found) and f"not installed here: {' and '.join(found)}"


def missing_s3() -> str:
    """What has to be installed before `S3Server` can run, "" for nothing."""
    names = {"boto3": "boto3", "moto": "'moto[s3]'"}
    lacking = [name for module, name in names.items() if not _is_installed(module)]
    return f"not installed here: pip install {' '.join(lacking)}" if lacking else ""


class Relay:
    """A port that hands everything on to another one, as it is told: late, or not at all.

    Args:
        target: port on loopback.

    Attributes:
        delay: seconds that each answer comes late.
        port: that it listens on.
        answers: how many answers have gone through it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.delay, self.answers = 0.0, 0
        self.port = free_port()
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Take connections."""
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def kill(self) -> None:
        """End all connections; further ones are refused."""
        self._over.set()
        for each in (self._listener, *self._open):
            if each is not None:
                with contextlib.suppress(OSError):  # the other side was faster
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._open.clear()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        over = self._over
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:  # closed by `kill`
                return
            threading.Thread(target=self._hand_on, args=(client, over), daemon=True).start()

    def _hand_on(self, client: socket.socket, over: threading.Event) -> None:
        with client, contextlib.suppress(OSError):  # either side may end a connection
            server = socket.create_connection(("127.0.0.1", self._target))
            with server:
                self._open |= {client, server}
                was_asked = False
                while not over.is_set():
                    for ready in select.select([client, server], [], [])[0]:
                        content = ready.recv(1 << 16)
                        if not content:
                            return
                        if ready is server and was_asked:
                            over.wait(self.delay)
                            self.answers += 1
                        was_asked = ready is client
                        (server if ready is client else client).sendall(content)


class S3Server:
    """S3 on loopback, with one bucket; its contents are lost at the end of the block.

    Attributes:
        endpoint: its address.
        bucket: name of the bucket.
        env: what clients need in their environment, secrets and all.
    """

    def __init__(self) -> None:
        self.bucket = "babysweep"
        self._process = _server(
            [sys.executable, "-m", "moto.server", "-p", str(port := free_port())]
        )
        wait_for(self._process, "Running on")
        _drain(self._process)
        self._relay = Relay(port)
        self.endpoint = f"http://127.0.0.1:{self._relay.port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }
        self.client().create_bucket(Bucket=self.bucket)

    def client(self):
        """A client of boto3's."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.env["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )

    def objects(self) -> dict[str, int]:
        """Names and sizes in bytes of all objects in the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}

    def kill(self) -> None:
        """Refuse all connections from now on; the contents are kept."""
        self._relay.kill()

    def start(self) -> None:
        """Be there again after `kill`, at the same address."""
        self._relay.start()

    def pause(self) -> None:
        """Take connections and say nothing, as a machine that is overloaded."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *raised: object) -> None:
        self._relay.kill()
        self.resume()
        _end(self._process)


class PostgresServer:
    """A PostgreSQL server on loopback with an empty database; root starts it as another user, since
    it refuses to be root's.

    Attributes:
        uri: of the database, for SQLAlchemy, with its password. Without the driver SQLAlchemy 2.1
            asks for psycopg, 2.0 for psycopg2.
    """

    def __init__(self) -> None:
        self._user = {} if os.geteuid() else {"user": _POSTGRES_USER, "group": _POSTGRES_USER}
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        data, port, password = self._folder / "data", free_port(), secrets.token_hex(12)
        (self._folder / "password").write_text(password)
        for path in (self._folder, self._folder / "password"):
            if self._user:
                shutil.chown(path, **self._user)
        flags = [f"--pgdata={data}", f"--pwfile={self._folder / 'password'}", "--username=sweeps"]
        flags += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [_postgres("initdb"), *flags],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._user,
        )
        words = [_postgres("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
        self._process = _server([*words, "-k", str(self._folder)], cwd=self._folder, **self._user)
        wait_for(self._process, "ready to accept connections")
        _drain(self._process)
        self.uri = f"postgresql+psycopg2://sweeps:{password}@127.0.0.1:{port}/postgres"

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *raised: object) -> None:
        _end(self._process, signal.SIGINT)  # of SIGTERM it would wait for its clients to leave
        shutil.rmtree(self._folder)


class MlflowServer:
    """`mlflow server` on loopback, which can be killed and started again.

    Args:
        folder: for its log, and for what it keeps of users.
        database: address of its store.
        flags: further words of the command.
        variables: its environment beside the tests'.
        login: name and password that it asks of everyone, see `env`.

    Attributes:
        address: of the server.
        env: what clients need in their environment.
    """

    def __init__(
        self,
        folder: Path,
        database: str,
        *flags: str,
        variables: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.folder, self._flags = folder, [*flags]
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.env = {"MLFLOW_TRACKING_URI": self.address}
        self._variables = {
            "MLFLOW_BACKEND_STORE_URI": database,  # no word: others see a process's words
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **(variables or {}),
        }
        if login is not None:
            self._ask_for(*login)
        self.start()

    def _ask_for(self, name: str, password: str) -> None:
        self._flags.append("--app-name=basic-auth")
        config = self.folder / "auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = sqlite:///{self.folder / 'users.db'}\nadmin_username = {name}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n"  # else each request takes a slow hash of the password
        )
        self._variables |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        }
        self.env |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}

    def start(self) -> None:
        """Serve, at the same address as before."""
        words = [str(Path(sys.executable).with_name("mlflow")), "server", "--host=127.0.0.1"]
        words += [f"--port={self.port}", "--workers=1", *self._flags]
        self._process = _server(words, cwd=self.folder, variables=self._variables)
        wait_for(self._process, "Application startup complete")
        _drain(self._process, self.folder / "server.log")

    def kill(self) -> None:
        """End it at once, with all of its processes."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=_LONGEST)

    def __enter__(self) -> MlflowServer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()


@contextlib.contextmanager
def mlflow_on_postgres(
    folder: Path, *, serves_artifacts: bool = True, login: tuple[str, str] | None = None
) -> Iterator[tuple[MlflowServer, S3Server]]:
    """MLflow's server on PostgreSQL and S3.

    Args:
        folder: for its log.
        serves_artifacts: whether files go through it; else clients reach S3 themselves.
        login: see `MlflowServer`.
    """
    with PostgresServer() as database, S3Server() as files:
        place = f"s3://{files.bucket}/artifacts"
        direct = ("--no-serve-artifacts", f"--default-artifact-root={place}")
        flags = (f"--artifacts-destination={place}",) if serves_artifacts else direct
        with MlflowServer(folder, database.uri, *flags, variables=files.env, login=login) as server:
            yield server, files


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _has_postgres() -> bool:
    return bool(_postgres("initdb") and _postgres("postgres"))


def _postgres(program: str) -> str:
    """Path of one of PostgreSQL's programs, "" if it is not installed."""
    newest = sorted(_POSTGRES.glob("*/bin"), key=lambda folder: float(folder.parent.name))
    places = [*map(str, reversed(newest)), os.environ["PATH"]]
    return shutil.which(program, path=os.pathsep.join(places)) or ""


def _server(
    words: list[str],
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    **user: str,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=environment() | {"LC_ALL": "C.UTF-8"} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **user,
    )


def _drain(process: subprocess.Popen[str], log: Path | None = None) -> None:
    """Read what a server says, into a file or nowhere: a full pipe would stop it."""

    def read() -> None:
        assert process.stdout is not None
        with open(log or os.devnull, "a") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()

    threading.Thread(target=read, daemon=True).start()


def _end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(how)
    process.wait(timeout=_LONGEST)
