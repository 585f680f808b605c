"""Images of containers: how they are built here, what a folder of them says of itself, which of them a host needs."""
