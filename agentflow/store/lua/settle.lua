-- Settle the end of an attempt, once: succeeded, failed or cancelled.
-- ARGV: 1 run, 2 node, 3 fence, 4 state, 5 states that it may come from, 6 reason, 7 commit,
--       8 paths written (lines), 9 sequence that an optimistic merge was checked against ('' when declared),
--       10 facts (JSON object: further fields of the node), 11 text (hand-off or report)
-- returns: 'settled' | 'superseded', state | 'moved', sequence | 'locked', reason; then the answer
local node, fence, state, reason, commit = ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'locks')
if n[2] ~= fence or not from(n[1] or '', ARGV[5]) then
  redis.call('ZREM', 'af:leases', ARGV[1] .. '|' .. node .. '|' .. fence)  -- a lease on nothing is void
  return answer({'superseded', n[1] or 'unknown'})
end
local paths = {}
for path in string.gmatch(ARGV[8], '[^\n]+') do paths[#paths + 1] = path end
if state == 'succeeded' and ARGV[9] ~= '' and #paths > 0 then
  local seq = redis.call('HGET', RUN, 'seq') or '0'
  if seq ~= ARGV[9] then return answer({'moved', seq}) end
  for _, path in ipairs(paths) do
    local holder = lock_conflict(part('locks'), node, path)
    if holder then return answer({'locked', 'lock: ' .. path .. ' is held for ' .. holder}) end
  end
end

leave(node, fence)
redis.call('HSET', nkey(node), 'commit', commit)
for field, value in pairs(cjson.decode(ARGV[10])) do redis.call('HSET', nkey(node), field, tostring(value)) end
if ARGV[11] ~= '' then redis.call('HSET', part('texts'), node, ARGV[11]) end
if state == 'succeeded' and commit ~= '' then
  redis.call('ZADD', part('settled'), redis.call('HINCRBY', RUN, 'seq', 1), node)
  -- What lies below a newly settled path was merged into it: only the newest writer counts.
  local mine = wants(node)
  local written = #mine > 0 and mine or paths
  local all = redis.call('HKEYS', part('writers'))
  for _, path in ipairs(written) do
    for _, old in ipairs(all) do
      if #mine > 0 and (path == '' or string.sub(old, 1, #path + 1) == path .. '/') then
        redis.call('HDEL', part('writers'), old)
      end
    end
    redis.call('HSET', part('writers'), path, node)
  end
end
if state == 'failed' then redis.call('HINCRBY', nkey(node), 'failures', 1) end
local optional = redis.call('HGET', nkey(node), 'optional') == '1'
finish(node, state, reason)
if state == 'failed' and not optional and redis.call('HGET', RUN, 'on_failure') == 'stop' then
  redis.call('HSET', RUN, 'stopped', 1)
  cancel_waiting('stopped: ' .. node .. ' failed')
end
wake()
return answer({'settled', state})
