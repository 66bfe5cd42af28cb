-- Charge what a call has cost in place of what was reserved for it, once: by whoever made it, holder or not.
-- ARGV: 1 run, 2 node, 3 fence of the attempt that reserved, 4 id of the reservation, 5 usd (billionths), 6 tokens,
--       7 how long the project's means are kept (s)
-- returns: 'charged' | 'late' (the attempt had ended) | 'known' (charged before); then the answer
local node, fence, id = ARGV[2], ARGV[3], ARGV[4]
local name = node .. '|' .. fence .. '|' .. id
local amount = {usd = tonumber(ARGV[5]), tokens = tonumber(ARGV[6])}
local held = redis.call('HGET', part('budget'), 'hold:' .. name)
local late = not held and redis.call('HGET', part('budget'), 'late:' .. name)
if not held and not late then return answer({'known'}) end
local reserved, day, role, counts = amount_of(held or late)
local where, costs = purses(node, role, day), project_key('costs')
-- What a node of this role costs on the mean, for estimates: a node counts with its first bill.
if amount.usd + amount.tokens > 0 then
  if redis.call('HEXISTS', part('budget'), 'billed:' .. node) == 0 then
    redis.call('HSET', part('budget'), 'billed:' .. node, 1)
    redis.call('HINCRBY', costs, role .. ':nodes', 1)
  end
  for _, unit in ipairs(UNITS) do redis.call('HINCRBY', costs, role .. ':' .. unit, amount[unit]) end
  redis.call('EXPIRE', costs, ARGV[7])
end
if held then
  redis.call('HDEL', part('budget'), 'hold:' .. name)
  add(where, 'held', minus(reserved))
  add(where, 'spent', amount)
  local left = {}
  for other in string.gmatch(redis.call('HGET', nkey(node), 'holds') or '', '%S+') do
    if other ~= id then left[#left + 1] = other end
  end
  redis.call('HSET', nkey(node), 'holds', table.concat(left, ' '))
else
  redis.call('HDEL', part('budget'), 'late:' .. name)
  if counts == '1' then add(where, 'spent', minus(reserved)) end
  add(where, 'spent', amount)
end
if amount.usd < reserved.usd or amount.tokens < reserved.tokens then
  day_freed = true
  wake()
end
return answer({held and 'charged' or 'late'})
