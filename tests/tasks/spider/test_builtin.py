"""The built-in text-to-SQL sample: stable, disjoint, sound and varied."""

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest

from cllm_bench_tasks.spider.builtin.grammar import WEIGHTS, normal, split_of, stream
from cllm_bench_tasks.spider.builtin.rows import NAMES, WORDS, rows, split
from cllm_bench_tasks.spider.builtin.sample import (
    TEST_QUESTIONS,
    build_databases,
    databases,
    questions,
    schema,
)
from cllm_bench_tasks.spider.builtin.schemas import entities
from cllm_bench_tasks.spider.builtin.wording import plural, possessed

# A model is trained on this data: a change of these means that it must be trained anew.
TEST_DIGEST = "932cd362965f012d5555eaaeba6d70c86f06e6893797f3464a8f629128e47477"
TRAIN_DIGEST = "422f342e26af4e8301764993951b8a233f58d20f1372afe651724905763bf3f3"
ROWS_DIGEST = "acdfc569455d94871b001a4ba82a14a02d350f86fcf01d145a31103e6166b7ca"
TRAIN = 4000


def digest(items):
    return hashlib.sha256(repr(items).encode()).hexdigest()


def told(asked):
    return [(q.id, q.database, q.text, q.sql, q.kind) for q in asked]


@pytest.fixture(scope="module")
def test_split():
    return questions("test", TEST_QUESTIONS)


@pytest.fixture(scope="module")
def train_split():
    return questions("train", TRAIN)


@pytest.fixture(scope="module")
def connections(tmp_path_factory):
    paths = build_databases(tmp_path_factory.mktemp("databases"))
    opened = {name: sqlite3.connect(path) for name, path in paths.items()}
    yield opened
    for connection in opened.values():
        connection.close()


def test_data_are_frozen(test_split, train_split):
    assert digest(told(test_split)) == TEST_DIGEST
    assert digest(told(train_split)) == TRAIN_DIGEST
    assert digest([(name, rows(name)) for name in databases()]) == ROWS_DIGEST


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_makes_the_same(test_split, seed):
    code = (
        "from cllm_bench_tasks.spider.builtin.sample import questions; import hashlib;"
        "asked = [(q.id, q.database, q.text, q.sql, q.kind) for q in questions('test', 60)];"
        "print(hashlib.sha256(repr(asked).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == digest(told(test_split[:60]))


def test_shorter_is_prefix_of_longer(test_split, train_split):
    assert questions("test", 50) == test_split[:50]
    assert questions("train", 300) == train_split[:300]


def test_splits_share_no_query_and_no_question(test_split, train_split):
    for name, asked in (("test", test_split), ("train", train_split)):
        assert all(split_of(q.database, q.sql) == name for q in asked)
    assert not {(q.database, normal(q.sql)) for q in test_split} & {
        (q.database, normal(q.sql)) for q in train_split
    }
    assert not {normal(q.text) for q in test_split} & {normal(q.text) for q in train_split}


def test_question_determines_query(test_split, train_split):
    # With this, disjoint queries make disjoint questions, whatever the counts.
    meant: dict[str, tuple[str, str]] = {}
    for q in (*test_split, *train_split):
        assert meant.setdefault(normal(q.text), (q.database, q.sql)) == (q.database, q.sql)


def test_no_word_for_a_table_is_used_by_two_databases():
    owner: dict[str, str] = {}
    for name, tables in entities().items():
        for entity in tables:
            for word in filter(None, (entity.name, entity.synonym)):
                assert owner.setdefault(word, name) == name


def test_order_of_conditions_does_not_change_the_split():
    one = "SELECT name, age FROM pet WHERE age > 3 AND species = 'Dog'"
    two = "select age,  name from pet where species = 'Dog' and age > 3"
    assert split_of("pet_register", one) == split_of("pet_register", two)


def test_no_query_occurs_twice_in_the_test(test_split):
    assert len({(q.database, normal(q.sql)) for q in test_split}) == TEST_QUESTIONS
    assert len({q.id for q in test_split}) == TEST_QUESTIONS


def test_kinds_and_databases_are_all_present(test_split):
    kinds = Counter(q.kind for q in test_split)
    assert set(kinds) == set(WEIGHTS)
    assert min(kinds.values()) >= 6
    assert len({q.database for q in test_split}) >= 20
    assert len(databases()) >= 22


def test_every_query_runs_and_finds_something(connections, test_split, train_split):
    for q in (*test_split, *train_split[:1500]):
        assert connections[q.database].execute(q.sql).fetchall(), q


def test_limits_cut_between_different_keys(connections, test_split, train_split):
    pattern = re.compile(r"SELECT (.+?) FROM (.+) ORDER BY (.+) (ASC|DESC)(?: LIMIT (\d+))?$")
    checked = 0
    for q in (*test_split, *train_split[:1500]):
        match = pattern.match(q.sql)
        if match:
            _, source, key, way, limit = match.groups()
            query = f"SELECT {key} FROM {source} ORDER BY {key} {way}"
            keys = connections[q.database].execute(query).fetchall()
            shown = keys[: int(limit) + 1] if limit else keys
            assert len(set(shown)) == len(shown) > int(limit or 1), q
            checked += 1
    assert checked > 100


def test_values_of_a_query_stand_in_its_question(test_split, train_split):
    for q in (*test_split, *train_split[:1500]):
        values = re.findall(r"'([^']*)'", q.sql)
        values += re.findall(r"(?:[<>=]|BETWEEN|AND) (-?\d[\d.]*)", q.sql)
        assert all(value.strip("%") in q.text for value in values), q


def test_queries_are_long_enough_to_decode(train_split):
    mean = sum(len(q.sql) for q in train_split) / TRAIN
    assert 70 < mean < 110


def test_databases_match_their_schema(connections):
    for name in databases():
        connection = connections[name]
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        tables = schema(name)
        assert 2 <= len(tables) <= 3
        for table in tables:
            declared = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
            assert [(row[1], row[2]) for row in declared] == [
                (column.name, column.type) for column in table.columns
            ]
            assert 3 <= len(table.columns) <= 5
            links = connection.execute(f"PRAGMA foreign_key_list({table.name})").fetchall()
            assert {(row[3], row[2], row[4]) for row in links} == {
                (link.column, link.table, link.target) for link in table.foreign_keys
            }
            (count,) = connection.execute(f"SELECT COUNT(*) FROM {table.name}").fetchone()
            assert 12 <= count <= 40


def test_databases_replace_what_is_there_and_leave_nothing_else(tmp_path):
    stale = tmp_path / f"{databases()[0]}.sqlite"
    stale.write_text("not a database")
    paths = build_databases(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())
    assert tuple(paths) == databases()
    assert stale.read_bytes().startswith(b"SQLite format 3")


def test_unknown_database_is_an_error():
    with pytest.raises(KeyError):
        schema("no_such_database")


def test_values_need_no_escape_in_sql():
    pools = [*WORDS.values(), *(part for pair in NAMES.values() for part in pair)]
    assert all(value.replace(" ", "").isalpha() for pool in pools for value in split(pool))


def test_closing_a_stream_frees_its_connections():
    pairs = stream("train")
    next(pairs)
    pairs.close()
    with pytest.raises(StopIteration):
        next(pairs)


@pytest.mark.parametrize(
    ("noun", "many"),
    [("city", "cities"), ("day", "days"), ("branch", "branches"), ("species", "species")],
)
def test_plural(noun, many):
    assert plural(noun) == many


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("is above 3", "an age above 3"),
        ("is 3 or more", "an age of 3 or more"),
        ("is at least 3", "an age of at least 3"),
        ("exceeds 3", "an age that exceeds 3"),
        ("is not Dog", "an age other than Dog"),
        ("is Dog", "the age Dog"),
    ],
)
def test_possessed(phrase, said):
    assert possessed("age", phrase) == said
