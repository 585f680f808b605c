"""The same inventory for Compose, Kubernetes and `podman kube play`: builders of text, and writing it to a folder."""
