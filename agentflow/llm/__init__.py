"""The one door to a model: an OpenAI-compatible endpoint, streamed, metered, retried and stoppable."""
