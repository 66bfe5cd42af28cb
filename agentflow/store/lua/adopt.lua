-- Take settled work into a run whose ledger has lost it: of a run that was planted again from its journal, or of
-- one whose Redis came back without the end of its log.
-- ARGV: 1 run, 2 states that a node may come from, 3 the generation that it was in at least,
--       4 added to the fences of the nodes (those of the lost attempts are unknown), 5 ttl of a closed run's keys (s),
--       6 nodes: JSON list of {node, facts (JSON object), text, paths (lines)}, oldest settlement first
-- returns: 'adopted' | 'unknown', how many; then the answer
local state = redis.call('HGET', RUN, 'state')
if not state then return answer({'unknown', 0}) end
if tonumber(redis.call('HGET', RUN, 'generation') or 1) < tonumber(ARGV[3]) then
  redis.call('HSET', RUN, 'generation', ARGV[3])
end
local count = 0
for _, one in ipairs(cjson.decode(ARGV[6])) do
  local node = one.node
  local n = redis.call('HMGET', nkey(node), 'state', 'fence')
  if n[1] and from(n[1], ARGV[2]) then
    local is_open = redis.call('SISMEMBER', part('open'), node) == 1
    if n[1] == 'running' then leave(node, n[2]) elseif is_open then forget(node) end
    for field, value in pairs(cjson.decode(one.facts)) do
      if field ~= 'state' and field ~= 'fence' then redis.call('HSET', nkey(node), field, tostring(value)) end
    end
    note_appends(cjson.decode(redis.call('HGET', nkey(node), 'extension') or '[]'))
    local fence = tonumber(n[2] or 0) + tonumber(ARGV[4])
    redis.call('HSET', nkey(node), 'fence', fence, 'settled_fence', fence)
    if one.text ~= '' then redis.call('HSET', part('texts'), node, one.text) end
    if (redis.call('HGET', nkey(node), 'commit') or '') ~= '' then wrote(node, lines(one.paths)) end
    -- In an open run it settles in this same step, as if it had run.
    emit('node.restored', node, is_open and 'running' or 'succeeded', redis.call('HGET', nkey(node), 'attempt'))
    if is_open then finish(node, 'succeeded', '') else redis.call('HSET', nkey(node), 'state', 'succeeded') end
    count = count + 1
  end
end
if redis.call('SISMEMBER', 'af:open', ARGV[1]) == 1 then
  wake()
else
  for _, name in ipairs(PARTS) do redis.call('EXPIRE', part(name), ARGV[5]) end
end
return answer({'adopted', count})
