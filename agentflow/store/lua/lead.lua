-- Become or stay the leader, also on a server that is full: what runs must still be ended there.
-- ARGV: 1 '' (no run), 2 name, 3 ttl of the lead (ms)
-- returns: 1 when the lead is the caller's, else 0
local holder = redis.call('GET', 'af:leader')
if holder and holder ~= ARGV[2] then return {0} end
redis.call('SET', 'af:leader', ARGV[2], 'PX', ARGV[3])
return {1}
