"""Judging policies and reward models."""
