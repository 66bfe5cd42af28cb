"""Celery's settings, plain data; each line with its reason. Measured facts: docs/redis.md.

The broker's address is not here: `agentflow.app` takes it from agentflow's own configuration.
"""

# Messages are ids only; JSON alone is read, so a message can never carry code.
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

# A message is acknowledged when its attempt has ended, and given back when the worker dies.
task_acks_late = True
task_reject_on_worker_lost = True
# With late acks a prefetch of one holds exactly as many messages as there are slots.
worker_prefetch_multiplier = 1
# A node that failed is the ledger's affair; its message must not come back.
task_acks_on_failure = True
task_acks_on_timeout = True

# Agents wait for models and child processes: threads cost 0.5 MB each, forks 24 MB.
worker_pool = "threads"
# Cancelling running work when Redis is away for a moment would throw attempts away.
worker_cancel_long_running_tasks_on_connection_loss = False
# The supervisor starts the worker before Redis may be up again.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

# On Redis 0 is served first, and without all ten steps kombu folds priorities together.
broker_transport_options = {
    "priority_steps": list(range(10)),
    "queue_order_strategy": "priority",
    # The ledger recovers lost attempts within seconds. A short timeout here would start long ones twice.
    "visibility_timeout": 24 * 3600,
    # A worker that died while it restored messages must not block the others for five minutes.
    "unacked_mutex_expire": 10,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 15,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
task_default_priority = 5

# Results are small and for monitoring; the ledger holds what counts.
result_expires = 24 * 3600
# A join's count must outlive the longest run.
result_chord_expires = 7 * 24 * 3600
result_backend_transport_options = {"socket_timeout": 15}
redis_socket_timeout = 15.0
redis_socket_connect_timeout = 5.0
result_extended = False

# Flower shows what runs (the worker sends its events in batches: tasks/worker.py).
worker_send_task_events = True
# Sent-events would overwrite the readable names.
task_send_sent_event = False
task_track_started = False

# Messages go through queues of their own, without an exchange to look up.
task_create_missing_queues = True
task_default_queue = "agentflow.system"
task_default_exchange_type = "direct"
worker_enable_remote_control = True
worker_hijack_root_logger = True
enable_utc = True
timezone = "UTC"
