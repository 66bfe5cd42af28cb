"""What a run proposes to its reviewer: one value, its Markdown, and the files of `--out`."""

from agentflow.proposal.files import write, write_out
from agentflow.proposal.making import make
from agentflow.proposal.markdown import render
from agentflow.proposal.values import Proposal

__all__ = ["Proposal", "make", "render", "write", "write_out"]
