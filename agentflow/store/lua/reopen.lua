-- Open a closed run again: what did not succeed is pending (or ready) once more, as a new generation.
-- ARGV: 1 run, 2 states of a run that may be reopened, 3 commit to integrate on ('': the base)
-- returns: 'reopened' | 'superseded', state; then the answer (ready: what to send)
local state = redis.call('HGET', RUN, 'state')
if not from(state or '', ARGV[2]) then return answer({'superseded', state or 'unknown'}) end
local order = cjson.decode(redis.call('HGET', RUN, 'order'))
redis.call('HSET', RUN, 'state', 'open', 'reason', '', 'result', '', 'closed_ms', 0, 'in_flight', 0,
  'stopped', 0, 'onto', ARGV[3], 'since_ms', NOW)
redis.call('HINCRBY', RUN, 'generation', 1)
redis.call('SADD', 'af:open', ARGV[1])
redis.call('PERSIST', RUN)
for _, name in ipairs(PARTS) do
  redis.call('PERSIST', part(name))
end
local again, left = {}, 0
for _, node in ipairs(order) do
  redis.call('PERSIST', nkey(node))
  -- On a moved target only the integration is done again: what an optional node failed at stays so.
  local unfinished = ARGV[3] == '' and redis.call('HGET', nkey(node), 'state') ~= 'succeeded'
  if unfinished or redis.call('HGET', nkey(node), 'tolerant') == '1' then
    again[node] = true
    left = left + 1
  end
end
for _, node in ipairs(order) do
  if again[node] then
    local waits = 0
    for _, parent in ipairs(cjson.decode(redis.call('HGET', nkey(node), 'parents'))) do
      if again[parent] then waits = waits + 1 end
    end
    redis.call('HSET', nkey(node), 'state', 'pending', 'parents_left', waits, 'reason', '', 'woken', 0, 'wide', 0,
      'failures', 0, 'losses', 0, 'conflicts', 0, 'ended_ms', 0, 'pending_commit', '', 'closing', '', 'result', '')
    redis.call('HINCRBY', nkey(node), 'fence', 1)
    redis.call('SADD', part('open'), node)
    if waits == 0 and (left == 1 or redis.call('HGET', nkey(node), 'tolerant') ~= '1') then
      offer(node)
      ready[#ready + 1] = node
    end
  end
end
redis.call('HSET', RUN, 'nodes_left', left)
-- An exclusive run holds what it has until it lands; one that gave it back stands in line again.
if (redis.call('HGET', RUN, 'exclusive') or '') ~= '' then
  redis.call('ZREM', 'af:holding', ARGV[1])
  if redis.call('HGET', RUN, 'holds') ~= '1' then redis.call('ZADD', project_key('wait'), T[1] * 1e6 + T[2], ARGV[1]) end
end
emit('run.reopened', '', 'open')
return answer({'reopened', 'open'})
