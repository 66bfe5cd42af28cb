-- Put a worker on the register, also of a server that is full: nobody else says who lives.
-- ARGV: 1 '' (no run), 2 name, 3 ttl of the record (s), 4 now (ms), then pairs: field, value
-- returns: 'known' | 'new' (nobody had this name: it has just come, or the server has lost what it knew)
local key = 'af:worker:' .. ARGV[2]
local is_new = redis.call('EXISTS', key) == 0
for i = 5, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', key, ARGV[3])
redis.call('ZADD', 'af:workers', ARGV[4], ARGV[2])
return {is_new and 'new' or 'known'}
