"""What outlives Redis, and the way back: the journal, the checkpoints, the run put right, work taken back.

journal        the file of what is settled, beside the repository
recording      writes it, while somebody is attached to the run
rebuilding     puts a run back that Redis has lost
checkpoints    the commits that a run can return to, and what returning undoes
undoing        takes back what a closed run has settled
"""
