"""Announcements on Kafka: the messages, the position in them, and reading and producing them."""
