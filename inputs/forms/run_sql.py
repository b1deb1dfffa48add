#!/usr/bin/env python3
"""Judges queries by a database (the reward `command`, style server).

    run_sql.py syntax    1 if the query runs
    run_sql.py result    1 if it returns what the answer's returns, as a multiset of rows

The query is what stands behind "```sql" in the response. The database is in memory, the same each time, and read-only.
Standard library only."""
import json
import random
import re
import sqlite3
import sys

CITIES = "Rome Oslo Paris Vienna Madrid Prague Dublin Lisbon".split()
NAMES = "Anna Boris Clara David Elena Felix Greta Hugo".split()
ITEMS = "tea rice fish bread soup cake".split()
COLUMNS = {"users": ("name", "age", "city"), "goods": ("item", "price", "shop")}  # by table; the second is a number
WORDS = {"name": NAMES, "city": CITIES, "item": ITEMS, "shop": CITIES}

QUERY = re.compile(r"```sql\n(.*?)\n```", re.S)
MOST_STEPS = 100000  # of sqlite's machine, for one query


def database():
    """Tables of 60 rows."""
    rng, db = random.Random(7), sqlite3.connect(":memory:")
    for table, (name, number, place) in COLUMNS.items():
        db.execute(f"CREATE TABLE {table} ({name} TEXT, {number} INTEGER, {place} TEXT)")
        for i in range(60):
            row = WORDS[name][i % len(WORDS[name])], rng.randrange(10, 70), rng.choice(WORDS[place])
            db.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", row)
    db.commit()
    db.execute("PRAGMA query_only = ON")
    return db


def rows(db, query):
    """Sorted; None if the query does not run."""
    steps = iter(range(MOST_STEPS // 1000))
    db.set_progress_handler(lambda: next(steps, None) is None, 1000)
    try:
        return sorted(db.execute(query).fetchall(), key=repr)
    except (sqlite3.Error, sqlite3.Warning):
        return None


def judge(db, said, style):
    query = QUERY.search(said["response"])
    found = rows(db, query[1]) if query else None
    return float(found is not None and (style == "syntax" or found == rows(db, said["answer"])))


def main():
    db = database()
    for line in sys.stdin:
        for said in json.loads(line)["responses"]:
            print(json.dumps({"id": said["id"], "reward": judge(db, said, sys.argv[1])}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
