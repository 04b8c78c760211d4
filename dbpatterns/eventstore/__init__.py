"""An event store in the database you have: streams, a global order without holes, projections.

Needs `"dbpatterns.eventstore"` in INSTALLED_APPS. `appending.append` writes, `reading.read` and
`reading.read_all` read, `projections.Projection` turns events into rows.
"""
