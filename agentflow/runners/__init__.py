"""What does the work of an attempt: a model in a tool loop, a command-line agent, or nothing."""
