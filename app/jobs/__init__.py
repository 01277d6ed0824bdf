"""Requests to do work, and their state machine."""
