-- Drain, cancel or reopen for claims an unfinished run; change its concurrency.
-- ARGV: 1 run, 2 'drain' | 'cancel' | 'continue' | 'limit', 3 reason or number
-- returns: the state of the run ('' when there is none); then the answer
local verb, word = ARGV[2], ARGV[3]
local state = redis.call('HGET', RUN, 'state')
if not state then return answer({'', ''}) end
local unfinished = state == 'open' or state == 'draining'
if verb == 'limit' then
  redis.call('HSET', RUN, 'max_concurrent', tonumber(word))
elseif verb == 'drain' and state == 'open' then
  state = 'draining'
elseif verb == 'continue' and unfinished then
  -- The time that a run stood still is not held against it.
  if state == 'draining' then redis.call('HSET', RUN, 'since_ms', NOW) end
  state = 'open'
elseif verb == 'cancel' and unfinished then
  state = 'cancelling'
end
if state ~= redis.call('HGET', RUN, 'state') then
  redis.call('HSET', RUN, 'state', state, 'reason', word)
  emit('run.' .. state, '', state, 0, word)
end
if state == 'cancelling' then cancel_waiting('the run was cancelled') end
wake()
return answer({state, ''})
