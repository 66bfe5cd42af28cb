-- Set or raise budgets, of a run, of a project's day or of all projects' day, and let go on what they held back.
-- ARGV: 1 run ('': a day's), 2 project ('' too: of all projects), then triples: scope and unit (`run:usd`, `role:docs:tokens`),
--       'set' | 'add' | 'none', amount
-- returns: 'granted' | 'unlimited', scope and unit (nothing was there to add to: nothing is done) | 'unknown'; then
--          the answer
local home, key = RUN_ID, part('budget')
if home == '' then
  key = ARGV[2] == '' and 'af:org:budget' or 'af:project:' .. ARGV[2] .. ':budget'
elseif redis.call('EXISTS', RUN) == 0 then
  return answer({'unknown', ''})
end
for i = 3, #ARGV, 3 do
  if ARGV[i + 1] == 'add' and redis.call('HEXISTS', key, 'limit:' .. ARGV[i]) == 0 then
    return answer({'unlimited', ARGV[i]})
  end
end
for i = 3, #ARGV, 3 do
  local field = 'limit:' .. ARGV[i]
  if ARGV[i + 1] == 'none' then
    redis.call('HDEL', key, field)
  elseif ARGV[i + 1] == 'set' then
    redis.call('HSET', key, field, ARGV[i + 2])
  elseif redis.call('HINCRBY', key, field, ARGV[i + 2]) < 0 then
    redis.call('HSET', key, field, 0)
  end
end
-- A closed run is forgotten some day, and with it what it may spend when it is resumed.
local ttl = home ~= '' and redis.call('TTL', RUN) or -1
if ttl > 0 then redis.call('EXPIRE', key, ttl) end

for _, run in ipairs(home ~= '' and {home} or redis.call('SMEMBERS', 'af:open')) do
  turn_to(run)
  local r = redis.call('HMGET', RUN, 'project', 'guards', 'state', 'reason')
  if home ~= '' or ARGV[2] == '' or r[1] == ARGV[2] then
    if not string.find(r[2] or '', 'b', 1, true) then redis.call('HSET', RUN, 'guards', (r[2] or '') .. 'b') end
    if r[3] == 'paused' and string.sub(r[4] or '', 1, 8) == 'budget: ' then
      go_on()
      redis.call('HSET', RUN, 'state', 'open', 'reason', '')
      emit('run.open', '', 'open', 0, 'its budget was changed')
    end
    -- Where it still does not suffice the run is paused again (nodes.lua: rest).
    wake()
  end
end
turn_to(home)
return answer({'granted', ''})
