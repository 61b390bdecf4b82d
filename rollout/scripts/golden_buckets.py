"""Prints the golden buckets of tests/golden_buckets.tsv, from Python's hashlib.

Usage: python3 golden_buckets.py > ../tests/golden_buckets.tsv
"""

import hashlib

CASES = [
    ("", "u"), ("s", ""), ("s", "u"), ("salt", "user-1"), ("salt", "user-2"),
    ("salt", "用户"), ("сіль", "користувач"), ("salt", "a b\\c"), ("0", "x" * 256),
    ("4f2d", "alice@example.org"),
] + [("2026-11", f"user-{i}") for i in range(90)]

for salt, unit in CASES:
    digest = hashlib.sha256(salt.encode() + b"\0" + unit.encode()).digest()
    print(f"{salt}\t{unit}\t{int.from_bytes(digest[:8], 'big') % 10000}")
