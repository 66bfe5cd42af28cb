"""The configuration: one value for each key, and where it came from.

`sections.py` says what agentflow.yaml may hold, `model.py` what the program reads, `loading.py` puts the
layers on top of one another, `keys.py` knows every key with its variable, `address.py` spells the address
of a Redis for each client, and `foreign/` reads the files of older systems.
"""

from agentflow.agents import (
    CommandRunner,
    NoopRunner,
    OpenAIRunner,
    Prices,
    RoleConfig,
    RunnerChoice,
    RunnerConfig,
)
from agentflow.config.loading import load_config
from agentflow.config.model import Config, ConfigFileError

__all__ = [
    "CommandRunner", "Config", "ConfigFileError", "NoopRunner", "OpenAIRunner", "Prices", "RoleConfig",
    "RunnerChoice", "RunnerConfig", "load_config",
]  # fmt: skip
