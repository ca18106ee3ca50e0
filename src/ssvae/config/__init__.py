"""The typed configuration tree (one small file a group), its cross-field checks, and how it is composed.

Types live here, values live in ``conf/``: no field has a default, so a value can never come from two places.
"""
