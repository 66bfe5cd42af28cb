-- Nodes that are done again, and closed runs that go on (loaded after endings.lua, for reopen.lua and retry.lua).

-- A closed run is open once more. The caller counts its nodes and the generation.
local function open_again(onto)
  redis.call('HSET', RUN, 'state', 'open', 'reason', '', 'result', '', 'closed_ms', 0, 'in_flight', 0,
    'stopped', 0, 'onto', onto, 'since_ms', NOW)
  redis.call('HDEL', RUN, 'still_ms')
  forget_failures()
  redis.call('SADD', 'af:open', RUN_ID)
  redis.call('PERSIST', RUN)
  for _, name in ipairs(PARTS) do redis.call('PERSIST', part(name)) end
  for _, node in ipairs(cjson.decode(redis.call('HGET', RUN, 'order'))) do redis.call('PERSIST', nkey(node)) end
  -- An exclusive run holds what it has until it lands; one that gave it back stands in line again.
  if (redis.call('HGET', RUN, 'exclusive') or '') ~= '' then
    redis.call('ZREM', 'af:holding', RUN_ID)
    if redis.call('HGET', RUN, 'holds') ~= '1' then
      redis.call('ZADD', project_key('wait'), T[1] * 1e6 + T[2], RUN_ID)
    end
  end
end

-- A node is as it was when the run was opened, but for its attempts and tokens, which are never used twice.
local function start_over(node, waits)
  redis.call('HSET', nkey(node), 'state', 'pending', 'parents_left', waits, 'reason', '', 'woken', 0, 'wide', 0,
    'failures', 0, 'losses', 0, 'conflicts', 0, 'troubles', 0, 'vain', 0, 'lost_at', '', 'code', '', 'fix', '',
    'ended_ms', 0, 'pending_commit', '', 'closing', '', 'result', '')
  redis.call('HINCRBY', nkey(node), 'fence', 1)
  redis.call('SADD', part('open'), node)
end
