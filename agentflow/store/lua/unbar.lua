-- A finished exclusive run gives back what it holds, landed or not.
-- ARGV: 1 run
-- returns: 'released'; then the answer (others: what to send)
unbar()
wake()
return answer({'released'})
