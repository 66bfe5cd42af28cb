-- Pause a role or the fleet for every run, or let it go on and wake what waited for just that.
-- ARGV: 1 '' (no run), 2 'pause' | 'resume', 3 'fleet' or 'role:<role>', 4 reason
-- returns: 'paused' | 'resumed' | 'same' (nothing changed); then the answer (others: what to send)
local verb, name = ARGV[2], ARGV[3]
if verb == 'pause' then
  local was = redis.call('HGET', 'af:paused', name)
  -- A breaker's pause would end by itself: the operator's takes its place.
  if was and not is_automatic(string.match(was, '^%d+ (.*)$') or '') then return answer({'same'}) end
  redis.call('HSET', 'af:paused', name, NOW .. ' ' .. ARGV[4])
  return answer({'paused'})
end
if redis.call('HDEL', 'af:paused', name) == 0 then return answer({'same'}) end
for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
  turn_to(run)
  -- What waited during the pause has its whole queue timeout again.
  if redis.call('HEXISTS', RUN, 'state') == 1 then redis.call('HSET', RUN, 'went_on_ms', NOW) end
  if redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
end
turn_to('')
wake()
return answer({'resumed'})
