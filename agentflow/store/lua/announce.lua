-- Put a deed on the list `system_events`, also of a server that is full (the list is capped).
-- ARGV: 1 '' (no run), 2 entry (JSON), 3 entries that the list keeps
-- returns: nothing
redis.call('LPUSH', 'system_events', ARGV[2])
redis.call('LTRIM', 'system_events', 0, ARGV[3] - 1)
return {}
