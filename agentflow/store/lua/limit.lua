-- Set a limit of the whole fleet and wake what has room now.
-- ARGV: 1 '' (no run), 2 'fleet' or 'role:<role>', 3 slots (0: no limit)
-- returns: 'set'; then the answer (others: what to send)
redis.call('HSET', 'af:limits', ARGV[2], ARGV[3])
wake()
return answer({'set'})
