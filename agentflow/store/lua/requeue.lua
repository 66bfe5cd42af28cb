-- End an attempt without settling the node: it comes back now, after a delay, or when woken.
-- Used for a red attempt that has retries left, a conflict, an expired lease, a drained worker and
-- an optimistic settlement that waits for a lock.
-- What is counted is capped here (I9): whoever asks for one attempt too many has ended the node as failed.
-- ARGV: 1 run, 2 node, 3 fence, 4 states that it may come from, 5 counter ('failures', 'losses',
--       'conflicts', 'troubles', '' for none), 6 delay (ms; -1: park), 7 reason, 8 facts (JSON object), 9 dynamic edges (lines),
--       10 cap of the counter ('': the run's, or the ledger's),
--       11 further locks that it comes back with (lines), 12 '1': they are artifacts that it was given
-- returns: 'requeued', state | 'quarantined', 'failed' | 'superseded', state; then the answer
local node, fence, counter, delay, reason = ARGV[2], ARGV[3], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'attempt', 'edges', 'tolerant')
if n[2] ~= fence or not from(n[1] or '', ARGV[4]) then
  redis.call('ZREM', 'af:leases', ARGV[1] .. '|' .. node .. '|' .. fence)  -- a lease on nothing is void
  return answer({'superseded', n[1] or 'unknown'})
end
leave(node, fence)
-- The token moves on, so that whatever the old holder still does is refused.
redis.call('HINCRBY', nkey(node), 'fence', 1)
local given_up = counter ~= '' and count(node, counter, tonumber(ARGV[10]))
for field, value in pairs(cjson.decode(ARGV[8])) do redis.call('HSET', nkey(node), field, tostring(value)) end
if ARGV[9] ~= '' then
  local edges = cjson.decode(n[4] or '[]')
  for other in string.gmatch(ARGV[9], '[^\n]+') do
    local known = false
    for _, have in ipairs(edges) do known = known or have == other end
    if not known then edges[#edges + 1] = other end
  end
  redis.call('HSET', nkey(node), 'edges', cjson.encode(edges))
end
if ARGV[11] ~= '' then
  local mine, more = widen(node, lines(ARGV[11]))
  local other, path = nil, nil
  if ARGV[12] == '1' then other, path = widen_run(more) end
  if other then
    -- Another run has it by now, and none waits for another while it holds something: the node comes back as it
    -- was, and its agent is refused this one.
    delay, reason = 0, 'lock: ' .. shown(path) .. ' is held by run ' .. other
  else
    redis.call('HSET', nkey(node), 'locks', cjson.encode(mine))
    if ARGV[12] == '1' then note_wider(node, mine, more) end
  end
end
local run_state = redis.call('HGET', RUN, 'state')
local state
if run_state == 'cancelling' and n[5] ~= '1' then
  state = 'cancelled'
  finish(node, 'cancelled', 'the run was cancelled')
elseif redis.call('HGET', RUN, 'stopped') == '1' and n[5] ~= '1' then
  -- `on_failure: stop`: another attempt would be something new.
  state = 'cancelled'
  finish(node, 'cancelled', 'stopped: another node failed; ' .. reason)
elseif given_up then
  redis.call('HSET', nkey(node), 'code', given_up[1], 'fix', given_up[2])
  fail(node, 'quarantined: ' .. given_up[3] .. '; ' .. reason)
  if n[5] ~= '1' then note_failure(redis.call('HGET', nkey(node), 'role'), node, reason) end
  wake()
  return answer({'quarantined', 'failed'})
elseif run_state ~= 'open' and n[5] ~= '1' then
  state = 'parked'
  park(node, standing(run_state))
elseif delay < 0 then
  state = 'parked'
  redis.call('HSET', nkey(node), 'queued_ms', NOW)
  park(node, reason)
elseif delay > 0 then
  state = 'delayed'
  redis.call('HSET', nkey(node), 'state', 'delayed', 'reason', reason)
  redis.call('ZADD', 'af:delayed', NOW + delay, ARGV[1] .. '|' .. node)
  emit('node.delayed', node, 'delayed', n[3], reason)
else
  state = 'ready'
  redis.call('HSET', nkey(node), 'woken', 0)
  offer(node)
  ready[#ready + 1] = node
  emit(counter == 'losses' and 'node.lost' or 'node.retry', node, 'ready', n[3], reason)
end
wake()
return answer({'requeued', state})
