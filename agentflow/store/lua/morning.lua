-- A new day has begun (or a budget of the day is free again): the run goes on if a day's budget held it back.
-- ARGV: 1 run
-- returns: 'woken'; then the answer
redis.call('ZREM', 'af:short', RUN_ID)
local r = redis.call('HMGET', RUN, 'state', 'reason')
if r[1] == 'paused' and DAILY[string.match(r[2] or '', '^budget: (%a+):') or ''] then
  go_on()
  redis.call('HSET', RUN, 'state', 'open', 'reason', '')
  emit('run.open', '', 'open', 0, 'a new day has begun')
end
wake()
return answer({'woken'})
