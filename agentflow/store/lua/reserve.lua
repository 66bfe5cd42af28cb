-- Reserve what a call may cost at most, in every budget that it is paid from, or in none.
-- ARGV: 1 run, 2 node, 3 fence, 4 id of the reservation (unique in the attempt), 5 usd (billionths), 6 tokens,
--       7 '1': counts with this amount when its bill never comes
-- returns: 'reserved' | 'superseded', state | 'refused', scope, reason, 'spent' or 'held' (only for now)
local node, fence, id = ARGV[2], ARGV[3], ARGV[4]
local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'role', 'holds')
if n[1] ~= 'running' or n[2] ~= fence then return {'superseded', n[1] or 'unknown'} end
local name = 'hold:' .. node .. '|' .. fence .. '|' .. id
if redis.call('HEXISTS', part('budget'), name) == 1 then return {'reserved'} end
local amount = {usd = tonumber(ARGV[5]), tokens = tonumber(ARGV[6])}
local where = purses(node, n[3], TODAY)
-- Nothing is asked for: room for the bill of a call that nobody asked about before.
local purse, why, is_spent = nil, nil, false
if amount.usd + amount.tokens > 0 then purse, why, is_spent = lacking(where, amount) end
if purse then
  redis.call('HSET', nkey(node), 'need', string.format('%.0f %.0f', amount.usd, amount.tokens))
  -- A limit of the day that is younger than the run, which was closed then: from now on its claims ask for it.
  if not guarded('b') then redis.call('HSET', RUN, 'guards', guards[RUN_ID] .. 'b') end
  return {'refused', purse.called, why, is_spent and 'spent' or 'held'}
end
add(where, 'held', amount)
redis.call('HSET', part('budget'), name, record_of(amount, TODAY, n[3], ARGV[7]))
redis.call('HSET', nkey(node), 'holds', (n[4] and n[4] .. ' ' or '') .. id)
redis.call('HDEL', nkey(node), 'need')
return {'reserved'}
