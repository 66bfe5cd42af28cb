"""Reads the configuration files of older systems: each key becomes ours, or is named with the reason.

`rules.py` says what a rule is, `kinds.py` how a file is recognised; `orchestrator.py`, `automatosx.py`,
`parallel.py` and `distributed.py` hold the rules of one kind each, `conversions.py` what values become;
`reading.py` applies them and `writing.py` writes the result.
"""
