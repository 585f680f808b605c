"""Queen and hive in containers: what their units do on the host before, beside and after the container."""
