"""The Celery tasks: attempts, integration, maintenance, the worker."""
