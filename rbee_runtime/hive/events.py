"""What events of a hive are about."""

from enum import StrEnum


class EventKind(StrEnum):
    """What an event is about; the log itself adds `reset`."""

    WORKER_STATE = "worker_state"
    WORKER_EXIT = "worker_exit"
    MODEL_STATE = "model_state"
    MODEL_PROGRESS = "model_progress"
    DEVICE_STATE = "device_state"
    DESIRED = "desired"
    DRAIN = "drain"
