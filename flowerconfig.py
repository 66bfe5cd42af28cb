"""Flower's settings for `celery -A agentflow flower`, wherever it is started; each line with its reason.

Environment (FLOWER_READ_ONLY), a flowerconfig.py of your own in the current directory or named by --conf,
and flags go before them, in this order, the last one first. Who may look is told in docs/production.md.
"""

# It looks and does not touch: what Flower would do (end workers, revoke, send tasks) goes past the ledger.
# `agentflow cancel`, `drain`, `scale` and `kill` are for that.
read_only = True
# This machine only. Its pages ask nobody who they are until --basic-auth or --auth is set.
address = "127.0.0.1"
# The name says role and node, the arguments run and node.
tasks_columns = "name,args,state,received,started,runtime,worker"
# Workers come and go; one that has been away for an hour is forgotten.
purge_offline_workers = 3600
