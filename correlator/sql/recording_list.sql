-- One recording that was imported, as it was last described.
SELECT recording_uid, arg_max(name, start_ns) AS name, arg_max(format, start_ns) AS format, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
    arg_max(clock, start_ns) AS clock, arg_max(clock_error_ns, start_ns) AS clock_error_ns, max(rows) AS rows,
    arg_max(summary, start_ns)::VARCHAR AS summary, bool_or(simulated) AS simulated
FROM recording
GROUP BY recording_uid
ORDER BY start_ns DESC
