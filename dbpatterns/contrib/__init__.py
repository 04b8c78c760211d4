"""Bridges to other packages, one optional dependency each; nothing here is imported by itself."""
