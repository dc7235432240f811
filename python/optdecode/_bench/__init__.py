"""Measurement of speed: rows, rounds, cases, the machine, reports; for ``optdecode bench`` and ``benches/``.

Every figure is a ratio to the floor, a tuned row maximum that does nothing but read the row, timed beside it.
"""
