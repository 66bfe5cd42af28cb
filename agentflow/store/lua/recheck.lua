-- Look again at what a run has parked: a wake may be lost (Redis came back with its last second missing).
-- ARGV: 1 run
-- returns: 'woken' | 'none'; then the answer
if redis.call('HEXISTS', RUN, 'state') == 0 then return answer({'none'}) end
wake()
return answer({#woken + #others > 0 and 'woken' or 'none'})
