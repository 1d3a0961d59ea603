"""Helpers that several tests share: toys, projects, servers and browsers."""
