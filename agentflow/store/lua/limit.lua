-- Set a limit of the whole fleet and wake what has room now.
-- ARGV: 1 '' (no run), 2 'fleet', 'role:<role>' or 'class:<complexity>', 3 slots (0: no limit)
-- returns: 'set'; then the answer (others: what to send)
redis.call('HSET', 'af:limits', ARGV[2], ARGV[3])
-- A limit of a role or a class in the fleet stands in place of the runs' own: what waited for those may go as well.
for _, run in ipairs(ARGV[2] ~= 'fleet' and redis.call('SMEMBERS', 'af:open') or {}) do
  turn_to(run)
  if redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
end
turn_to('')
wake()
return answer({'set'})
