-- Widen the locks of a running attempt: all that is asked for, now, or nothing. An attempt never waits here for
-- what another one holds, so no two can wait for each other; it may end and stand in line (requeue.lua).
-- ARGV: 1 run, 2 node, 3 fence, 4 states that it may be in, 5 locks asked for (lines, `<mode>:<path>`),
--       6 further locks that a node may have
-- returns: 'granted', '' | 'queued', path, who is in the way, 'node' or 'run' | 'refused', why
--          | 'superseded', state; then the answer
local node, fence = ARGV[2], ARGV[3]
local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'attempt', 'extension')
if n[2] ~= fence or not from(n[1] or '', ARGV[4]) then return answer({'superseded', n[1] or 'unknown'}) end
if redis.call('HGET', RUN, 'state') == 'cancelling' then return answer({'refused', 'the run is being cancelled'}) end
local mine = wants(node)
local all, more = widen(node, lines(ARGV[5]))
-- Asked again (a message that came twice, an agent that forgot): it has them.
if #more == 0 then return answer({'granted', ''}) end
if #cjson.decode(n[4] or '[]') + #more > tonumber(ARGV[6]) then
  return answer({'refused', 'the task has been given ' .. ARGV[6] .. ' further artifacts already'})
end
local holder, path = conflict(part('locks'), node, more, mine, true)
if not holder and conflict(part('wanted'), node, more, nil) then
  -- Whoever waits for this attempt's own locks is passed: it cannot begin before this attempt ends anyway.
  holder, path = first_waiter(node, more, nil, function(theirs) return not clash_any(theirs, mine) end)
end
-- What another run has too is not waited for, whoever has it in this one (requeue.lua asks the same).
local other, at = widen_run(more, holder ~= nil)
if other then return answer({'queued', at, other, 'run'}) end
if holder then return answer({'queued', path, holder, 'node'}) end
acquire(part('locks'), node, more)
note_wider(node, all, more)
emit('node.extended', node, '', n[3], table.concat(more, ', '))
return answer({'granted', ''})
