"""Replies as tables and panels. No I/O: each function turns a reply into something that rich prints."""
