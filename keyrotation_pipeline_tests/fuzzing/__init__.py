"""Rotates random tables of every format while everything around is disturbed, and compares each value with a journal.

Values are made and opened by code of this folder, written from the formats' public text, or by the library itself;
never by the product. `keyrotation` is typed as users type it. `test_rounds.py` says how one round is repeated.
"""
