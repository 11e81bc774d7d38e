"""The runner of queries: its outcomes, and that nothing which happens to its worker is lost."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sql_fixtures import make_database
from sql_running import FOREVER, GOLD, SECONDS, outcome

from cllm_bench_tasks.spider import sql_runner as sql_execution
from cllm_bench_tasks.spider import sql_worker
from cllm_bench_tasks.spider.sql_runner import Rows, SqlRunner


def test_values_arrive_as_sqlite_has_them(database: Path, runner: SqlRunner) -> None:
    sql = "SELECT x'ff00', 1e999, 9223372036854775807, NULL, 'é\n\"', 1.5, x'', ''"
    expected = (b"\xff\x00", float("inf"), 2**63 - 1, None, 'é\n"', 1.5, b"", "")
    assert runner.run(database, sql) == Rows((expected,))


def test_bytes_that_are_no_utf8_are_dropped(database: Path, runner: SqlRunner) -> None:
    assert runner.run(database, "SELECT CAST(x'61ff62' AS TEXT)") == Rows((("ab",),))


def test_result_at_the_limit_is_whole(database: Path, runner: SqlRunner) -> None:
    sql = FOREVER.format("x") + " LIMIT {}"
    found = runner.run(database, sql.format(1_000))
    assert isinstance(found, Rows)
    assert len(found.rows) == 1_000
    assert outcome(runner, database, sql.format(1_001)) == "rows"


def test_odd_path(tmp_path: Path, runner: SqlRunner) -> None:
    folder = tmp_path / "a?mode=rwc&b#c%20 'd'"
    folder.mkdir()
    database = make_database(folder / "é.sqlite")
    assert runner.run(database, GOLD) == Rows(((60,),))


def test_relative_path(database: Path, runner: SqlRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(database.parent)
    assert runner.run(Path(database.name), GOLD) == Rows(((60,),))


def test_file_that_is_no_database(tmp_path: Path, runner: SqlRunner) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("version https://git-lfs.github.com/spec/v1\n" * 30)
    assert outcome(runner, text, "SELECT * FROM singer") == "database"
    assert outcome(runner, tmp_path / "absent.sqlite", "SELECT 1") == "database"
    assert os.listdir(tmp_path) == ["text.sqlite"]


def test_write_ahead_database(database: Path, runner: SqlRunner) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("DELETE FROM singer WHERE id = 1")
        connection.commit()
        # While the change lives in the journal alone, an answer would be of the past.
        assert outcome(runner, database, GOLD) == "database"
    assert runner.run(database, GOLD) == Rows(((59,),))
    assert os.listdir(database.parent) == [database.name]


def test_worker_is_confined(database: Path) -> None:
    with SqlRunner() as runner:
        runner.run(database, GOLD)
        process = runner.process_id
        assert process is not None
        assert os.getsid(process) == process
        environment = Path(f"/proc/{process}/environ")
        if environment.exists():
            assert environment.read_bytes() == b""
            limits = Path(f"/proc/{process}/limits").read_text()
            assert str(sql_worker.ADDRESS_SPACE_BYTES) in limits
            assert "Max file size             0" in limits


def test_worker_is_reused_and_cheap(database: Path) -> None:
    with SqlRunner() as runner:
        runner.run(database, GOLD)
        process = runner.process_id
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            runner.run(database, GOLD)
            times.append(time.perf_counter() - begin)
        assert runner.process_id == process
        assert sorted(times)[25] < 0.02  # a start takes longer; measured alone, 0.0003


def gone(process: int | None) -> bool:
    assert process is not None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_close_ends_the_worker(database: Path) -> None:
    runner = SqlRunner()
    runner.run(database, GOLD)
    process = runner.process_id
    runner.close()
    assert gone(process)
    assert runner.process_id is None
    assert runner.run(database, GOLD) == Rows(((60,),))
    process = runner.process_id
    del runner
    gc.collect()
    assert gone(process)


def test_worker_killed_between_queries(database: Path) -> None:
    with SqlRunner() as runner:
        for _ in range(3):
            runner.run(database, GOLD)
            assert runner.process_id is not None
            os.kill(runner.process_id, signal.SIGKILL)
            assert runner.run(database, GOLD) == Rows(((60,),))


def test_worker_killed_in_the_middle(database: Path) -> None:
    slow = FOREVER.format("x").replace("FROM a)", "FROM a LIMIT 1500000)")
    with SqlRunner(seconds=30.0) as runner:
        runner.run(database, GOLD)
        assert runner.process_id is not None
        timer = threading.Timer(0.1, os.kill, (runner.process_id, signal.SIGKILL))
        timer.start()
        found = runner.run(database, f"SELECT count(*) FROM ({slow})")
        timer.join()
        assert found == Rows(((1_500_000,),))


def test_worker_stopped_is_killed(database: Path) -> None:
    with SqlRunner(seconds=SECONDS) as runner:
        runner.run(database, GOLD)
        assert runner.process_id is not None
        os.kill(runner.process_id, signal.SIGSTOP)
        assert outcome(runner, database, GOLD) == "timeout"
        assert runner.run(database, GOLD) == Rows(((60,),))


def test_query_that_kills_every_worker(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> bytes:
        raise sql_execution._WorkerDiedError

    with SqlRunner() as runner:
        with monkeypatch.context() as patch:
            patch.setattr(sql_execution, "_exchange", die)
            assert outcome(runner, database, GOLD) == "crash"
        assert runner.run(database, GOLD) == Rows(((60,),))


def test_out_of_processor_time_is_a_timeout(database: Path) -> None:
    with SqlRunner(seconds=30.0) as runner:
        runner.run(database, GOLD)
        assert runner.process_id is not None
        timer = threading.Timer(0.2, os.kill, (runner.process_id, signal.SIGXCPU))
        timer.start()
        assert outcome(runner, database, FOREVER.format("count(*)")) == "timeout"
        timer.join()


def test_ctrl_c_leaves_no_reply_behind(database: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with SqlRunner(seconds=30.0) as runner:
            runner.run(database, GOLD)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                runner.run(database, FOREVER.format("count(*)"))
            assert runner.process_id is None
            assert runner.run(database, GOLD) == Rows(((60,),))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_broken_machine_is_no_verdict(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with SqlRunner() as runner, pytest.raises(RuntimeError, match="does not start"):
        runner.run(database, GOLD)


FORK = """
import os, sys
from pathlib import Path
from cllm_bench_tasks.spider.sql_runner import SqlRunner
runner, database = SqlRunner(), Path(sys.argv[1])
first = runner.run(database, "SELECT 1")
process = runner.process_id
child = os.fork()
found = [runner.run(database, f"SELECT {os.getpid()}").rows[0][0] for _ in range(50)]
assert found == [os.getpid()] * 50
if child == 0:
    assert runner.process_id != process
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert runner.process_id == process
assert runner.run(database, "SELECT 1") == first
print(process)
"""


def test_fork_has_its_own_worker_and_exit_ends_it(database: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, str(database)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert gone(int(done.stdout))
