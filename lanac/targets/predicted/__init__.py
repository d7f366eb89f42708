"""Predicted latency: what a network would take on a device that is not here."""
