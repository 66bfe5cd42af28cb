-- Give an order to the whole fleet; a full server is where it may be needed most.
-- ARGV: 1 '' (no run), then pairs: field, value
-- returns: nothing
for i = 2, #ARGV, 2 do redis.call('HSET', 'af:fleet', ARGV[i], ARGV[i + 1]) end
return {}
