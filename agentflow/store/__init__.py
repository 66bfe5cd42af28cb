"""The ledger: what is true, each transition one Lua script."""
