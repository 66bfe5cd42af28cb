"""The MCP server: agentflow's tools and resources for coding agents, over stdio.

`server.py` puts it together, `running.py` and `steering.py` hold the tools, `clients.py` writes the
configuration of clients. The package is not called `mcp`, which is the SDK's name; the SDK is an extra.
"""
