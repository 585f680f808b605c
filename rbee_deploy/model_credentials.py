"""Secrets that hives fetch models with, read from where the inventory says and checked before they are placed."""

from rbee_deploy.errors import SecretError
from rbee_deploy.secrets import Secret, SecretSource
from rbee_runtime.errors import ConfigError
from rbee_runtime.models.sources import credentials


def read(name: str, source: SecretSource) -> Secret:
    """Return the text of the credential file `name`, or raise SecretError: a hive does not start with a damaged one."""
    # Password managers add lines to a token; the other two have several lines of their own.
    text = source.read(whole=name != credentials.HF_TOKEN).reveal() + "\n"
    try:
        credentials.check(name, text)
    except ConfigError as error:
        raise SecretError(f"{error}; correct what the inventory takes it from") from error
    return Secret(text)
