"""`make demo`: throw-away hosts, a deploy and a chat answer, told with elapsed time."""
