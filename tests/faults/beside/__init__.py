"""The faults of requests, put to gateways of other makes as well: the same worker does the same to each of them."""
