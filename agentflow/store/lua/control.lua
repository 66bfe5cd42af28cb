-- Pause, drain, cancel or let go on an unfinished run; change its concurrency.
-- ARGV: 1 run, 2 'pause' | 'drain' | 'cancel' | 'continue' | 'lift' | 'limit', 3 reason, number, or how the
--       reason begins of a pause that is lifted, 4 state to enter, 5 states that it may come from
-- returns: the state of the run ('' when there is none); then the answer
local verb, word, goal = ARGV[2], ARGV[3], ARGV[4]
local r = redis.call('HMGET', RUN, 'state', 'reason')
local state = r[1]
if not state then return answer({'', ''}) end
if verb == 'limit' then
  redis.call('HSET', RUN, 'max_concurrent', tonumber(word))
elseif verb == 'pause' then
  pause_run(word, ARGV[5])
elseif from(state, ARGV[5]) and (verb ~= 'lift' or state == 'paused' and string.sub(r[2] or '', 1, #word) == word) then
  if verb == 'lift' then word = r[2] .. ': lifted' end
  if goal == 'open' then go_on() elseif goal == 'draining' then stand_still() end
  if verb == 'continue' then forget_failures() end
  redis.call('HSET', RUN, 'state', goal, 'reason', goal == 'open' and '' or word)
  emit('run.' .. goal, '', goal, 0, word)
end
state = redis.call('HGET', RUN, 'state')
if state == 'cancelling' then cancel_waiting('the run was cancelled') end
wake()
return answer({state, ''})
