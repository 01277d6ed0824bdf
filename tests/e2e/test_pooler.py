"""PostgreSQL behind PgBouncer in transaction mode, where a connection is another's after each transaction."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from app.client import Client
from demo import digits
from tests.conftest import empty_postgres
from tests.e2e.service import Service
from tests.e2e.test_production import first_key, is_ready, running, until
from tests.services import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed"),
]

CONNECTIONS = 3  # to PostgreSQL: fewer than the processes would hold


@contextmanager
def pooled(database_url: str, folder: Path) -> Iterator[str]:
    """PgBouncer in front of a database; the URL through it."""
    url, port = make_url(database_url), free_port()
    host = url.query.get("host", url.host)
    folder.chmod(0o755)
    (folder / "users.txt").write_text(f'"{url.username}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{url.database} = host={host} port={url.port or 5432} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = transaction\n"
        f"auth_type = trust\nauth_file = {folder}/users.txt\ndefault_pool_size = {CONNECTIONS}\nmax_client_conn = 500\n"
    )
    as_user = ["-u", Path(str(host)).owner()] if os.geteuid() == 0 else []  # it refuses to be root
    process = subprocess.Popen(["pgbouncer", *as_user, str(folder / "pgbouncer.ini")])
    through = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
    engine = create_engine(through, connect_args={"prepare_threshold": None})
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                break
            except Exception:
                assert process.poll() is None, "pgbouncer ended at once"
                assert time.monotonic() < deadline
                time.sleep(0.1)
        engine.dispose()
        yield through
    finally:
        process.kill()
        process.wait()


def test_a_job_runs_where_no_connection_outlives_a_transaction(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "pooler").mkdir()
    with empty_postgres(postgres_url) as database_url, pooled(database_url, tmp_path / "pooler") as through:
        environment = {
            **os.environ,
            "BURNISH_DATA_DIR": str(tmp_path / "data"),
            "BURNISH_DATABASE_URL": through,
            "BURNISH_DATABASE_POOLER": "true",
            "BURNISH_REDIS_URL": redis_url,
        }
        key = first_key(environment)
        port = free_port()
        with running(environment, "serve", "--port", str(port)), running(environment, "worker"):
            until(lambda: is_ready(port))
            with Client(f"http://127.0.0.1:{port}", key, patience_seconds=60) as client:
                until(lambda: bool(client.workers()))
                service = Service(client, tmp_path)
                digits.export(digits.train(digits.load(), epochs=1), tmp_path / "digits.onnx")
                job = service.optimize(service.model(tmp_path / "digits.onnx"), [{"pass": "simplify"}])
        assert job["status"] == "succeeded", job["problem"]
        engine = create_engine(database_url)
        with engine.connect() as connection:
            held = connection.execute(
                text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            ).scalar_one()
        engine.dispose()
        assert held <= CONNECTIONS + 1
