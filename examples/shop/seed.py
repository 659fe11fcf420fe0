"""Make shop.db with some reviews: python seed.py."""

import sqlite3
from contextlib import closing
from pathlib import Path

REVIEWS = [
    (1, "2025-03-03 10:12:00", "Lovely lamp", "The light is warm and it arrived a day early."),
    (2, "2025-03-14 18:40:00", "Broken", "The handle came off in the first week. I would like a new one."),
    (3, "2025-03-28 07:05:00", None, "Does the drill come with a charger?"),
    (4, "2025-04-02 21:30:00", "Fine", "Does what it should."),
    (
        5,
        "2025-04-11 12:00:00",
        "Never again",
        "Three weeks late, wrong colour, and nobody answers. My money back please.",
    ),
    (6, "2025-04-19 16:22:00", "Good value", "For this price there is nothing better."),
    (7, "2025-05-05 09:45:00", "Loud", "You hear it through two doors."),
    (8, "2025-05-23 14:18:00", None, None),
]


def main() -> None:
    """Make the table and its rows, once."""
    with closing(sqlite3.connect(Path(__file__).with_name("shop.db"))) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS raw_reviews"
            " (id INTEGER PRIMARY KEY, created_at TIMESTAMP, title TEXT, text TEXT)"
        )
        connection.executemany("INSERT OR IGNORE INTO raw_reviews VALUES (?, ?, ?, ?)", REVIEWS)
        connection.commit()


if __name__ == "__main__":
    main()
